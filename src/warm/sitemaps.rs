//! What is to be warmed: URLs as said, and those that sitemaps name, which are read from the nodes.

use std::{
    ops::ControlFlow,
    sync::{Mutex, PoisonError},
};

use atoll_proxy::OriginUrl;

use super::{
    nodes::Nodes,
    run::{As, read_from},
    throttle::Throttle,
    urls::{self, Meant, Names, Refused, Sitemap},
};
use crate::cli::WarmArgs;

/// All URLs meant. A sitemap that cannot be had is refused by itself, as a URL is.
pub(super) async fn wanted(
    nodes: &Nodes,
    throttle: &Throttle,
    args: &WarmArgs,
    list: Vec<String>,
) -> Result<Meant, String> {
    let mut texts = args.files.clone();
    texts.extend(list);
    let mut refused = Refused::default();
    texts.extend(named(&args.sitemap, &mut refused, async |text: &str| sitemap(nodes, throttle, text).await).await);
    Meant::read(texts, refused, |url| nodes.unasked(url))
}

/// What these sitemaps name, and those that they lead to.
async fn named(
    first: &[String],
    refused: &mut Refused,
    read: impl AsyncFn(&str) -> Result<Sitemap, String>,
) -> Vec<String> {
    let mut found = Vec::new();
    let (mut bytes, mut seen) = (0_usize, 0);
    // The next one last.
    let mut sitemaps: Vec<(String, u32)> = first.iter().rev().map(|text| (text.clone(), 0)).collect();
    bounded(&mut sitemaps, seen, refused);
    while let Some((text, depth)) = sitemaps.pop() {
        seen += 1;
        match read(&text).await {
            Ok(Sitemap::Urls(names)) => {
                let names = fitting(&text, names, refused);
                let more = names.iter().fold(bytes, |sum, name| sum.saturating_add(name.len()));
                if found.len() + names.len() > LINES || more > BYTES {
                    refused.add(format!(
                        "{text}: the sitemaps would name more than {LINES} URLs, or {} MiB of them: warm it in another run",
                        BYTES >> 20
                    ));
                } else {
                    bytes = more;
                    found.extend(names);
                }
            }
            Ok(Sitemap::Index(names)) if depth == DEEP => {
                let count = names.fit.len() + names.long;
                refused.add(format!("{text}: the {count} sitemaps that it names are too deep: name it by --sitemap"));
            }
            Ok(Sitemap::Index(names)) => {
                let names = fitting(&text, names, refused);
                sitemaps.extend(names.into_iter().rev().map(|name| (name, depth + 1)));
                bounded(&mut sitemaps, seen, refused);
            }
            Err(why) => refused.add(why),
        }
    }
    found
}

/// The names of a length that may be; of the others it is told.
fn fitting(text: &str, names: Names, refused: &mut Refused) -> Vec<String> {
    if names.long > 0 {
        refused.add(format!("{text}: {} of its names have more than {} characters each", names.long, urls::LOC));
    }
    names.fit
}

/// Leaves out what is beyond the last sitemap that is read.
fn bounded(sitemaps: &mut Vec<(String, u32)>, seen: usize, refused: &mut Refused) {
    let beyond = sitemaps.len().saturating_sub(SITEMAPS.saturating_sub(seen));
    let dropped: Vec<_> = sitemaps.drain(..beyond).collect();
    if let Some((text, _)) = dropped.last() {
        refused.add(format!(
            "{text}: {beyond} sitemaps from here on are more than the {SITEMAPS} of a run: warm them in another one"
        ));
    }
}

/// Reads a sitemap from a node.
async fn sitemap(nodes: &Nodes, throttle: &Throttle, text: &str) -> Result<Sitemap, String> {
    let url = OriginUrl::parse(text).map_err(|error| format!("{text}: {error}"))?;
    if let Some(why) = nodes.unasked(&url) {
        return Err(why);
    }
    let node = nodes.homes(&url, 1).into_iter().next().ok_or("no node")?;
    let body = Mutex::new(Vec::new());
    let got = read_from(nodes, &url, node, As::Reader, throttle, |data, _| {
        let mut body = body.lock().unwrap_or_else(PoisonError::into_inner);
        // One more than may be, so that it shows.
        let room = (urls::LIMIT + 1).saturating_sub(body.len()).min(data.len());
        body.extend_from_slice(data.get(..room).unwrap_or_default());
        if body.len() > urls::LIMIT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    got.await.map_err(|why| format!("{text}: {why}"))?;
    let body = body.into_inner().unwrap_or_else(PoisonError::into_inner);
    Sitemap::read(&body).map_err(|why| format!("{text}: {why}"))
}

/// Sitemaps read in all, and how deep one may lead to another.
const SITEMAPS: usize = 1_000;
const DEEP: u32 = 2;

/// Lines that sitemaps may name in all before each is counted once, and their bytes.
const LINES: usize = 500_000;
const BYTES: usize = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fit: impl IntoIterator<Item = String>) -> Names {
        Names { fit: fit.into_iter().collect(), long: 0 }
    }

    /// What is found, and what is refused.
    async fn read(first: &str, read: impl AsyncFn(&str) -> Result<Sitemap, String>) -> (Vec<String>, Vec<String>) {
        let mut refused = Refused::default();
        let found = named(&[first.to_owned(), "last".to_owned()], &mut refused, read).await;
        (found, refused.lines().collect())
    }

    #[tokio::test]
    async fn an_index_that_leads_too_deep_is_refused_by_itself() {
        let (found, refused) = read("0", async |text: &str| {
            Ok(match text.parse::<u32>() {
                Ok(number) => Sitemap::Index(names([(number + 1).to_string()])),
                Err(_) => Sitemap::Urls(Names { fit: vec!["page".to_owned()], long: 3 }),
            })
        })
        .await;
        assert_eq!(found, ["page"]);
        let [deep, long] = &refused[..] else { panic!("{refused:?}") };
        assert!(deep.starts_with("2: ") && deep.contains("too deep"), "{deep}");
        assert!(long.starts_with("last: 3 of its names"), "{long}");
    }

    #[tokio::test]
    async fn sitemaps_beyond_the_last_that_is_read_are_refused_by_themselves() {
        let (found, refused) = read("index", async |text: &str| {
            Ok(match text {
                "index" => Sitemap::Index(names((0..SITEMAPS + 5).map(|number| number.to_string()))),
                _ => Sitemap::Urls(names([text.to_owned()])),
            })
        })
        .await;
        assert_eq!((found.len(), found.last().map(String::as_str)), (SITEMAPS - 1, Some("998")));
        let [beyond] = &refused[..] else { panic!("{refused:?}") };
        assert!(beyond.starts_with("999: 7 sitemaps from here on"), "{beyond}");
    }

    #[tokio::test]
    async fn what_sitemaps_name_is_bounded_in_bytes_and_in_lines() {
        let large = "x".repeat(1 << 20);
        for (each, count) in [(large.as_str(), 48), ("x", LINES / 2 - 1)] {
            let (found, refused) = read("index", async |text: &str| {
                Ok(match text {
                    "index" => Sitemap::Index(names(["1", "2", "3"].map(str::to_owned))),
                    "last" => Sitemap::Urls(names(["page".to_owned()])),
                    _ => Sitemap::Urls(names(vec![each.to_owned(); count])),
                })
            })
            .await;
            assert_eq!((found.len(), found.last().map(String::as_str)), (2 * count + 1, Some("page")));
            let [third] = &refused[..] else { panic!("{refused:?}") };
            assert!(third.starts_with("3: "), "{third}");
        }
    }
}
