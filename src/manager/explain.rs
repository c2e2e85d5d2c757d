//! What a manager says besides where to go: the choice explained for this client, as a page and as JSON, and the `Link` field that
//! names two more peers [RFC 6249 3].

use std::fmt::Write as _;

use serde::Serialize;

use super::roster::{Choice, View, Wish};

/// The choice for one client and one file.
#[derive(Debug, Serialize)]
pub(crate) struct Explained {
    /// Path and query.
    pub(crate) file: String,
    /// The client's network, as far as it matters.
    pub(crate) client: String,
    /// Where the client would be led, "" if it is served here.
    pub(crate) led_to: String,
    /// Why, in a sentence.
    pub(crate) because: String,
    /// Peers that may be chosen, best first.
    pub(crate) candidates: Vec<Candidate>,
    /// Peers that may not, and why.
    pub(crate) others: Vec<Other>,
}

/// A peer that may be chosen.
#[derive(Debug, Serialize)]
pub(crate) struct Candidate {
    node: String,
    url: String,
    /// What it can carry for this client; 1: a free 1 Gbit/s nearby.
    weight: f64,
    /// Higher is better, among those with room.
    score: f64,
    downloads: u64,
    /// Downloads it may have before others are asked first.
    bound: u64,
    room: bool,
    /// To the client's network, in milliseconds, where known.
    rtt_ms: Option<f64>,
}

/// A peer that may not be chosen.
#[derive(Debug, Serialize)]
pub(crate) struct Other {
    node: String,
    url: String,
    why: String,
}

impl Explained {
    /// All that is known of a choice.
    pub(crate) fn new(wish: Wish<'_>, client: String, choices: &[Choice], views: Vec<View>) -> Self {
        let file = wish.file;
        let candidate = |choice: &Choice| Candidate {
            node: choice.name.clone(),
            url: format!("{}{file}", choice.url),
            weight: choice.ranked.weight,
            score: choice.ranked.score,
            downloads: choice.load,
            bound: choice.ranked.bound,
            room: choice.ranked.room,
            rtt_ms: choice.rtt_us.map(|rtt| f64::from(u32::try_from(rtt).unwrap_or(u32::MAX)) / 1_000.0),
        };
        let is_candidate = |view: &View| choices.iter().any(|choice| choice.name == view.name);
        let others = views.into_iter().filter(|view| !is_candidate(view)).map(|view| Other {
            why: if view.live && wish.secure && !view.url.starts_with("https://") {
                "it speaks http alone, and this client came over https".to_owned()
            } else if view.live && !wish.not.is_empty() {
                "this client asked not to be led there".to_owned()
            } else {
                view.standing
            },
            node: view.name,
            url: view.url,
        });
        let because = match choices.first() {
            None => "no peer takes clients now: the manager serves by itself".to_owned(),
            Some(first) if first.ranked.room => format!(
                "of the {} peers with room for one more download ({} of at most {} at this one) it has the highest score for this file",
                choices.iter().filter(|choice| choice.ranked.room).count(),
                first.load,
                first.ranked.bound
            ),
            Some(_) => "all peers have their share; it has the highest score for this file".to_owned(),
        };
        Self {
            file: file.to_owned(),
            client,
            led_to: choices.first().map_or_else(String::new, |first| format!("{}{file}", first.url)),
            because,
            candidates: choices.iter().map(candidate).collect(),
            others: others.collect(),
        }
    }

    /// As a page, without script.
    pub(crate) fn page(&self) -> String {
        let mut rows = String::new();
        for candidate in &self.candidates {
            let rtt = candidate.rtt_ms.map_or_else(|| "unknown".to_owned(), |rtt| format!("{rtt:.1} ms"));
            let _ = writeln!(
                rows,
                "<tr><td><a href=\"{0}\">{0}</a></td><td>{1}</td><td>{2:.2}</td><td>{3:.3}</td><td>{4} of {5}</td><td>{rtt}</td></tr>",
                escaped(&candidate.url),
                escaped(&candidate.node),
                candidate.weight,
                candidate.score,
                candidate.downloads,
                candidate.bound,
            );
        }
        for other in &self.others {
            let _ = writeln!(
                rows,
                "<tr><td>{}</td><td>{}</td><td colspan=\"4\">{}</td></tr>",
                escaped(&other.url),
                escaped(&other.node),
                escaped(&other.why)
            );
        }
        Page {
            of: &self.file,
            client: &self.client,
            to: if self.led_to.is_empty() { "nobody else" } else { &self.led_to },
            because: &self.because,
            columns: &["Where", "Node", "Weight", "Score", "Downloads", "Round trip to you"],
            rows,
        }
        .text()
    }
}

/// The frame of a page that explains a choice.
pub(super) struct Page<'a> {
    /// What was asked for.
    pub(super) of: &'a str,
    pub(super) client: &'a str,
    pub(super) to: &'a str,
    pub(super) because: &'a str,
    pub(super) columns: &'a [&'a str],
    /// Markup, a line each.
    pub(super) rows: String,
}

impl Page<'_> {
    pub(super) fn text(&self) -> String {
        let columns: String = self.columns.iter().map(|column| format!("<th>{column}</th>")).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\"><title>Mirrors of {of}</title></head><body>\n\
             <h1>Mirrors of {of}</h1>\n<p>A client of {client} is led to {to}: {because}.</p>\n\
             <table><tr>{columns}</tr>\n\
             {rows}</table>\n<p>If one of these fails, ask again with <code>?not=NODE</code>. The same as JSON: <code>?mirrorlist=json</code>.</p>\n</body></html>\n",
            of = escaped(self.of),
            client = escaped(self.client),
            to = escaped(self.to),
            because = escaped(self.because),
            rows = self.rows,
        )
    }
}

/// `Link` for the peers after the first.
pub(crate) fn duplicates(file: &str, choices: &[Choice]) -> Option<String> {
    links(choices.iter().skip(1).map(|choice| format!("{}{file}", choice.url)))
}

/// `Link` for these URLs, the best first; none if there is none. Angle brackets in one would end its link.
pub(super) fn links(urls: impl Iterator<Item = String>) -> Option<String> {
    let linkable = urls.map(|url| url.replace('<', "%3C").replace('>', "%3E"));
    let links = linkable.zip(1..).map(|(url, place)| format!("<{url}>; rel=duplicate; pri={place}"));
    let links: Vec<String> = links.collect();
    (!links.is_empty()).then(|| links.join(", "))
}

/// Text as it may stand in markup, quotes included.
pub(crate) fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c {
            '&' => "&amp;".chars().collect(),
            '<' => "&lt;".chars().collect(),
            '>' => "&gt;".chars().collect(),
            '"' => "&quot;".chars().collect(),
            '\'' => "&#39;".chars().collect::<Vec<_>>(),
            c if c.is_control() => vec!['\u{fffd}'],
            c => vec![c],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_wrote_is_never_markup() {
        let file = "/<script>alert(1)</script>?\"onload='x'&";
        let wish = Wish { file, client: [192, 0, 2, 9].into(), not: &[], secure: false };
        let explained = Explained::new(wish, "192.0.2.0".to_owned(), &[], Vec::new());
        let page = explained.page();
        assert!(!page.contains("<script") && !page.contains("\"onload") && page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains("nobody else"));
    }
}
