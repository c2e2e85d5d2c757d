//! The URLs that are meant: as said, as listed in a file, as a sitemap names them (sitemaps.org).

use std::{collections::BTreeSet, io::Read as _, path::Path};

use atoll_proxy::OriginUrl;
use flate2::read::MultiGzDecoder;

/// What a list says: one URL a line; empty lines and what follows a `#` at a line's beginning do not count.
pub(crate) fn listed(file: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(ToOwned::to_owned).collect())
}

/// What no node is asked for, and why: each line once, and of many only the first as text.
#[derive(Debug, Default)]
pub(super) struct Refused {
    told: Vec<String>,
    seen: BTreeSet<[u8; 32]>,
}

impl Refused {
    /// Adds a line, if it is a new one.
    pub(super) fn add(&mut self, why: String) {
        if self.seen.insert(*blake3::hash(why.as_bytes()).as_bytes()) && self.told.len() < TOLD {
            self.told.push(why);
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.seen.len()
    }

    /// The first of them, then how many more there are.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let rest = self.count() - self.told.len();
        let more = (rest > 0).then(|| format!("{rest} more"));
        self.told.iter().cloned().chain(more)
    }
}

/// The URLs that are to be warmed, and those that are not.
#[derive(Debug, Default)]
pub(super) struct Meant {
    /// Each once, in the order given.
    pub(super) urls: Vec<OriginUrl>,
    /// What no node is asked for.
    pub(super) refused: Refused,
}

impl Meant {
    /// Sorts lines; `unasked` says why a URL cannot be asked for, `refused` is what was refused before.
    pub(super) fn read(
        texts: impl IntoIterator<Item = String>,
        refused: Refused,
        unasked: impl Fn(&OriginUrl) -> Option<String>,
    ) -> Result<Self, String> {
        let mut meant = Self { urls: Vec::new(), refused };
        let mut seen = BTreeSet::new();
        for text in texts {
            match OriginUrl::parse(&text) {
                Err(error) => meant.refused.add(format!("{text}: {error}: write it as http://HOST/PATH")),
                Ok(url) => match unasked(&url) {
                    Some(why) => meant.refused.add(why),
                    None if !seen.insert(url.to_string()) => {}
                    None => meant.urls.push(url),
                },
            }
        }
        let count = meant.urls.len();
        if count > MOST { Err(format!("{count} URLs; at most {MOST} at a time")) } else { Ok(meant) }
    }
}

/// What a sitemap names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sitemap {
    /// Pages.
    Urls(Names),
    /// Further sitemaps.
    Index(Names),
}

/// The names in a sitemap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Names {
    /// Those of a length that may be.
    pub(super) fit: Vec<String>,
    /// How many are longer than [`LOC`].
    pub(super) long: usize,
}

impl Sitemap {
    /// Reads what came for a sitemap, compressed by gzip \[RFC 1952\] or not.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let large = || format!("it is larger than {} MiB, the most of a sitemap: split it by an index", LIMIT >> 20);
        if bytes.len() > LIMIT {
            return Err(large());
        }
        let mut plain = Vec::new();
        let text = if bytes.starts_with(&GZIP) {
            // One more than may be, so that it shows.
            let mut inflated = MultiGzDecoder::new(bytes).take(wide(LIMIT) + 1);
            inflated.read_to_end(&mut plain).map_err(|error| {
                format!("what came is damaged gzip ({error}): make the file anew, or name one that is not compressed")
            })?;
            &plain[..]
        } else {
            bytes
        };
        if text.len() > LIMIT {
            return Err(large());
        }
        let text = std::str::from_utf8(text)
            .map_err(|error| format!("it is not UTF-8 after byte {}: save it as UTF-8", error.valid_up_to()))?;
        Self::parse(text).ok_or_else(|| {
            format!("it is no sitemap of {MOST} names at most: neither <urlset> nor <sitemapindex>, nor gzip of either")
        })
    }

    /// Reads a sitemap or a sitemap index. `None`: it is neither.
    fn parse(text: &str) -> Option<Self> {
        let index = text.contains("<sitemapindex");
        if !index && !text.contains("<urlset") {
            return None;
        }
        let mut names = Names::default();
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("<loc>") {
            let (inside, after) = after.split_once("</loc>")?;
            match name(inside.trim()) {
                Some(name) => names.fit.push(name),
                None => names.long += 1,
            }
            rest = after;
            if names.fit.len() + names.long > MOST {
                return None;
            }
        }
        Some(if index { Self::Index(names) } else { Self::Urls(names) })
    }
}

/// The name that an element gives, if it is of a length that may be.
fn name(text: &str) -> Option<String> {
    // No entity has more bytes for a character; what is longer is not looked into.
    let name = (text.len() <= LOC * 8).then(|| unescaped(text))?;
    (name.chars().count() <= LOC).then_some(name)
}

/// The text of an element: CDATA, or with the five entities of XML.
fn unescaped(text: &str) -> String {
    if let Some(inside) = text.strip_prefix("<![CDATA[").and_then(|rest| rest.strip_suffix("]]>")) {
        return inside.trim().to_owned();
    }
    // The ampersand last, or what it makes would be read again.
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (entity, plain)| text.replace(entity, plain))
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Bytes of a sitemap, before compression [sitemaps.org].
pub(super) const LIMIT: usize = 50 << 20;

/// Characters of a name in a sitemap [sitemaps.org].
pub(super) const LOC: usize = 2_048;

/// Lines that tell what is refused.
const TOLD: usize = 20;

/// What gzip begins with \[RFC 1952 2.3.1\].
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// URLs at a time: as many as a sitemap may have.
const MOST: usize = 50_000;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_list_has_one_url_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list");
        std::fs::write(&file, "# a site\nhttp://a.test/\n\n  http://a.test/x  \nhttp://a.test\n").unwrap();
        let meant = Meant::read(listed(&file).unwrap(), Refused::default(), |_| None).unwrap();
        assert_eq!(
            meant.urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["http://a.test/", "http://a.test/x"]
        );
        assert_eq!(meant.refused.count(), 0);
        assert!(listed(&folder.path().join("none")).is_err());
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused_by_itself() {
        let lines = ["ftp://a.test", "http://a.test/1", "https://a.test/2", "https://a.test/2", "http://a.test/3"];
        let unasked = |url: &OriginUrl| url.to_string().starts_with("https").then(|| format!("{url}: in clear"));
        let meant = Meant::read(lines.map(str::to_owned), Refused::default(), unasked).unwrap();
        let urls: Vec<_> = meant.urls.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://a.test/1", "http://a.test/3"]);
        let told: Vec<_> = meant.refused.lines().collect();
        let [first, second] = &told[..] else { panic!("{meant:?}") };
        assert!(first.starts_with("ftp://a.test: ") && second == "https://a.test/2: in clear", "{meant:?}");
        let many = (0..=MOST).map(|number| format!("http://a.test/{number}"));
        assert!(Meant::read(many, Refused::default(), |_| None).unwrap_err().contains("at most 50000"));
    }

    #[test]
    fn of_many_refused_lines_the_first_are_told_once_and_none_counts_as_a_url() {
        let lines = (0..=MOST).flat_map(|number| vec![format!("https://a.test/{number}"); 2]);
        let unasked = |url: &OriginUrl| url.to_string().starts_with("https").then(|| format!("{url}: in clear"));
        let lines = lines.chain(["http://a.test/".to_owned()]);
        let meant = Meant::read(lines, Refused::default(), unasked).unwrap();
        assert_eq!((meant.urls.len(), meant.refused.count()), (1, MOST + 1));
        let told: Vec<_> = meant.refused.lines().collect();
        assert_eq!(told.len(), TOLD + 1);
        assert_eq!((told[0].as_str(), told[1].as_str()), ("https://a.test/0: in clear", "https://a.test/1: in clear"));
        assert_eq!(told[TOLD], format!("{} more", MOST + 1 - TOLD));
    }

    #[test]
    fn a_name_that_is_too_long_is_left_out_and_what_is_no_utf_8_is_refused() {
        let most = "é".repeat(LOC);
        let entities = "&quot;".repeat(LOC);
        let long = "x".repeat(LOC + 1);
        let text = format!("<urlset><loc>{most}</loc><loc>{long}</loc><loc> {entities} </loc><loc>{entities}x</loc>");
        let named = Names { fit: vec![most, "\"".repeat(LOC)], long: 2 };
        assert_eq!(Sitemap::read(text.as_bytes()), Ok(Sitemap::Urls(named)));
        let huge = [b"<urlset><loc>", &vec![b'&'; LIMIT - 30][..], b"</loc>"].concat();
        assert_eq!(Sitemap::read(&gzip(&huge)), Ok(Sitemap::Urls(Names { fit: Vec::new(), long: 1 })));
        for bytes in [&b"<urlset>\xff"[..], &gzip(b"<urlset>\xff")] {
            assert!(Sitemap::read(bytes).unwrap_err().contains("not UTF-8 after byte 8"));
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_sitemap_may_be_compressed_and_no_larger_than_one_that_is_not() {
        let text = b"<urlset><url><loc>http://a.test/1</loc></url></urlset>";
        let named = Ok(Sitemap::Urls(Names { fit: vec!["http://a.test/1".to_owned()], long: 0 }));
        let packed = gzip(text);
        assert_eq!((Sitemap::read(text), Sitemap::read(&packed)), (named.clone(), named.clone()));
        assert_eq!(Sitemap::read(&[gzip(&text[..20]), gzip(&text[20..])].concat()), named, "in two members");
        for cut in 2..packed.len() {
            assert!(Sitemap::read(&packed[..cut]).unwrap_err().contains("damaged gzip"), "cut at {cut}");
        }
        let bomb = gzip(&vec![b' '; LIMIT + 1]);
        assert!(bomb.len() < 1 << 20);
        assert!(Sitemap::read(&bomb).unwrap_err().contains("larger than 50 MiB"));
        assert!(Sitemap::read(&vec![b' '; LIMIT + 1]).unwrap_err().contains("larger than 50 MiB"));
        assert!(Sitemap::read(&gzip(b"<html>")).unwrap_err().contains("no sitemap"));
        bolero::check!().with_iterations(1_000).for_each(|bytes: &[u8]| {
            let _ = Sitemap::read(&[&packed[..10], bytes].concat());
        });
    }

    #[test]
    fn a_sitemap_names_pages_or_sitemaps() {
        let pages = "<?xml version=\"1.0\"?><urlset xmlns=\"x\"><url><loc>\n http://a.test/?x=1&amp;y=&lt;\n</loc></url>\
                     <url><loc><![CDATA[http://a.test/&amp;]]></loc></url></urlset>";
        let named = ["http://a.test/?x=1&y=<", "http://a.test/&amp;"].map(str::to_owned).to_vec();
        assert_eq!(Sitemap::parse(pages), Some(Sitemap::Urls(Names { fit: named, long: 0 })));
        let index = "<sitemapindex><sitemap><loc>http://a.test/1.xml</loc></sitemap></sitemapindex>";
        assert_eq!(
            Sitemap::parse(index),
            Some(Sitemap::Index(Names { fit: vec!["http://a.test/1.xml".to_owned()], long: 0 }))
        );
        assert_eq!(Sitemap::parse("<html>"), None);
        assert_eq!(Sitemap::parse("<urlset><loc>cut"), None);
        assert_eq!(unescaped("&amp;lt;"), "&lt;");
        bolero::check!().with_iterations(10_000).for_each(|bytes: &[u8]| {
            let _ = Sitemap::parse(&format!("<urlset>{}", String::from_utf8_lossy(bytes)));
        });
    }
}
