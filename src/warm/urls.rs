//! The URLs that are meant: as said, as listed in a file, as a sitemap names them (sitemaps.org).

use std::path::Path;

use atoll_proxy::OriginUrl;

/// What a list says: one URL a line; empty lines and what follows a `#` at a line's beginning do not count.
pub(crate) fn listed(file: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(ToOwned::to_owned).collect())
}

/// Each URL once, in the order given; the first that is none is named.
pub(super) fn read(texts: impl IntoIterator<Item = String>) -> Result<Vec<OriginUrl>, String> {
    let mut urls: Vec<OriginUrl> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for text in texts {
        let url = OriginUrl::parse(&text).map_err(|error| format!("{text}: {error}"))?;
        if seen.insert(url.to_string()) {
            urls.push(url);
        }
    }
    if urls.len() > MOST { Err(format!("{} URLs; at most {MOST} at a time", urls.len())) } else { Ok(urls) }
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
    /// Reads a sitemap or a sitemap index. `None`: it is neither.
    pub(super) fn parse(text: &str) -> Option<Self> {
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

/// URLs at a time: as many as a sitemap may have.
const MOST: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_url_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list");
        std::fs::write(&file, "# a site\nhttp://a.test/\n\n  http://a.test/x  \nhttp://a.test\n").unwrap();
        let urls = read(listed(&file).unwrap()).unwrap();
        assert_eq!(urls.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://a.test/", "http://a.test/x"]);
        assert!(read(["ftp://a.test".to_owned()]).is_err());
        assert!(listed(&folder.path().join("none")).is_err());
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
