//! The URLs that are meant: as said, as listed in a file, as a sitemap names them (sitemaps.org).

use std::{io::Read as _, path::Path};

use atoll_proxy::OriginUrl;
use flate2::read::MultiGzDecoder;

/// What a list says: one URL a line; empty lines and what follows a `#` at a line's beginning do not count.
pub(crate) fn listed(file: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(ToOwned::to_owned).collect())
}

/// The URLs that are to be warmed, and those that are not.
#[derive(Debug, Default)]
pub(super) struct Meant {
    /// Each once, in the order given.
    pub(super) urls: Vec<OriginUrl>,
    /// Each line that no node is asked for, and why.
    pub(super) refused: Vec<String>,
}

impl Meant {
    /// Sorts lines; `unasked` says why a URL cannot be asked for.
    pub(super) fn read(
        texts: impl IntoIterator<Item = String>,
        unasked: impl Fn(&OriginUrl) -> Option<String>,
    ) -> Result<Self, String> {
        let mut meant = Self::default();
        let mut seen = std::collections::BTreeSet::new();
        for text in texts {
            match OriginUrl::parse(&text) {
                Err(error) => meant.refused.push(format!("{text}: {error}: write it as http://HOST/PATH")),
                Ok(url) if !seen.insert(url.to_string()) => {}
                Ok(url) => match unasked(&url) {
                    Some(why) => meant.refused.push(why),
                    None => meant.urls.push(url),
                },
            }
        }
        let count = seen.len();
        if count > MOST { Err(format!("{count} URLs; at most {MOST} at a time")) } else { Ok(meant) }
    }
}

/// What a sitemap names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sitemap {
    /// Pages.
    Urls(Vec<String>),
    /// Further sitemaps.
    Index(Vec<String>),
}

impl Sitemap {
    /// Reads what came for a sitemap, compressed by gzip \[RFC 1952\] or not.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
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
            return Err(format!("it is larger than {} MiB, the most of a sitemap: split it by an index", LIMIT >> 20));
        }
        Self::parse(&String::from_utf8_lossy(text)).ok_or_else(|| {
            format!("it is no sitemap of {MOST} names at most: neither <urlset> nor <sitemapindex>, nor gzip of either")
        })
    }

    /// Reads a sitemap or a sitemap index. `None`: it is neither.
    fn parse(text: &str) -> Option<Self> {
        let index = text.contains("<sitemapindex");
        if !index && !text.contains("<urlset") {
            return None;
        }
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("<loc>") {
            let (inside, after) = after.split_once("</loc>")?;
            found.push(unescaped(inside.trim()));
            rest = after;
            if found.len() > MOST {
                return None;
            }
        }
        Some(if index { Self::Index(found) } else { Self::Urls(found) })
    }
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
        let meant = Meant::read(listed(&file).unwrap(), |_| None).unwrap();
        assert_eq!(
            meant.urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["http://a.test/", "http://a.test/x"]
        );
        assert!(meant.refused.is_empty(), "{meant:?}");
        assert!(listed(&folder.path().join("none")).is_err());
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused_by_itself() {
        let lines = ["ftp://a.test", "http://a.test/1", "https://a.test/2", "https://a.test/2", "http://a.test/3"];
        let unasked = |url: &OriginUrl| url.to_string().starts_with("https").then(|| format!("{url}: in clear"));
        let meant = Meant::read(lines.map(str::to_owned), unasked).unwrap();
        let urls: Vec<_> = meant.urls.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://a.test/1", "http://a.test/3"]);
        let [first, second] = &meant.refused[..] else { panic!("{meant:?}") };
        assert!(first.starts_with("ftp://a.test: ") && second == "https://a.test/2: in clear", "{meant:?}");
        let many = (0..=MOST).map(|number| format!("http://a.test/{number}"));
        assert!(Meant::read(many, |_| None).unwrap_err().contains("at most 50000"));
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_sitemap_may_be_compressed_and_no_larger_than_one_that_is_not() {
        let text = b"<urlset><url><loc>http://a.test/1</loc></url></urlset>";
        let named = Ok(Sitemap::Urls(vec!["http://a.test/1".to_owned()]));
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
        assert_eq!(Sitemap::parse(pages), Some(Sitemap::Urls(named)));
        let index = "<sitemapindex><sitemap><loc>http://a.test/1.xml</loc></sitemap></sitemapindex>";
        assert_eq!(Sitemap::parse(index), Some(Sitemap::Index(vec!["http://a.test/1.xml".to_owned()])));
        assert_eq!(Sitemap::parse("<html>"), None);
        assert_eq!(Sitemap::parse("<urlset><loc>cut"), None);
        assert_eq!(unescaped("&amp;lt;"), "&lt;");
        bolero::check!().with_iterations(10_000).for_each(|bytes: &[u8]| {
            let _ = Sitemap::parse(&format!("<urlset>{}", String::from_utf8_lossy(bytes)));
        });
    }
}
