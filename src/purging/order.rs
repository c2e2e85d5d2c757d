//! An order to purge as a query, the same for the command and for the page: `tag=a&host=www.example.com&hard=yes&wait=5s`.

use std::time::Duration;

use atoll_proxy::PurgeTarget;
use atoll_units::span;

use crate::percent::{escape, unescape};

/// What to purge, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is meant.
    pub target: PurgeTarget,
    /// Whether it is gone at once; else it is confirmed by the origin before it is used again.
    pub hard: bool,
    /// How long other nodes are waited for; at most [`WAIT_LIMIT`].
    pub wait: Duration,
}

impl Order {
    /// Reads a query. Exactly one thing is to be named; a host may stand beside a tag. `all=yes` with `hard=yes` wants `sure=yes` as
    /// well: everything would have to be fetched again.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut order = Named::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = unescape(value).ok_or_else(|| format!("the value of {key} is badly escaped"))?;
            order.take(key, value)?;
        }
        order.whole()
    }

    /// The query that [`Self::parse`] reads.
    #[must_use]
    pub fn query(&self) -> String {
        let mut pairs = match &self.target {
            PurgeTarget::Url(url) => vec![("url", url.clone())],
            PurgeTarget::Prefix(url) => vec![("prefix", url.clone())],
            PurgeTarget::Host(host) => vec![("host", host.clone())],
            PurgeTarget::Tag { tag, host: None } => vec![("tag", tag.clone())],
            PurgeTarget::Tag { tag, host: Some(host) } => vec![("tag", tag.clone()), ("host", host.clone())],
            PurgeTarget::All => vec![("all", "yes".to_owned())],
        };
        if self.hard {
            pairs.push(("hard", "yes".to_owned()));
            if self.target == PurgeTarget::All {
                pairs.push(("sure", "yes".to_owned()));
            }
        }
        if !self.wait.is_zero() {
            pairs.push(("wait", format!("{}ms", self.wait.as_millis())));
        }
        let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
        pairs.join("&")
    }
}

/// What a query has named so far.
#[derive(Debug, Default)]
struct Named {
    target: Option<PurgeTarget>,
    host: Option<String>,
    hard: bool,
    sure: bool,
    wait: Duration,
}

impl Named {
    fn take(&mut self, key: &str, value: String) -> Result<(), String> {
        let target = match key {
            "url" => PurgeTarget::Url(value),
            "prefix" => PurgeTarget::Prefix(value),
            "tag" => PurgeTarget::Tag { tag: value, host: None },
            "all" if value == "yes" => PurgeTarget::All,
            "host" => {
                let twice = self.host.replace(value).is_some();
                return if twice { Err("host is named twice".to_owned()) } else { Ok(()) };
            }
            "hard" => return yes(key, &value).map(|hard| self.hard = hard),
            "sure" => return yes(key, &value).map(|sure| self.sure = sure),
            "wait" => {
                let wait = span::parse(&value).filter(|wait| *wait <= WAIT_LIMIT);
                self.wait = wait.ok_or_else(|| format!("wait is a duration up to {WAIT_LIMIT:?}, such as 5s"))?;
                return Ok(());
            }
            "all" => return Err("all=yes means everything".to_owned()),
            _ => return Err(format!("{key:?} is none of url, prefix, host, tag, all, hard, sure, wait")),
        };
        if self.target.replace(target).is_some() {
            return Err(ONE.to_owned());
        }
        Ok(())
    }

    fn whole(self) -> Result<Order, String> {
        let target = match (self.target, self.host) {
            (None, Some(host)) => PurgeTarget::Host(host),
            (Some(PurgeTarget::Tag { tag, .. }), host) => PurgeTarget::Tag { tag, host },
            (Some(target), None) => target,
            (None, None) | (Some(_), Some(_)) => return Err(ONE.to_owned()),
        };
        if target == PurgeTarget::All && self.hard && !self.sure {
            return Err("everything would have to be fetched again: say sure=yes, or leave hard out".to_owned());
        }
        Ok(Order { target, hard: self.hard, wait: self.wait })
    }
}

fn yes(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{key} is yes or no")),
    }
}

/// The longest that an order may wait.
pub const WAIT_LIMIT: Duration = Duration::from_secs(60);

const ONE: &str = "name one thing: url, prefix, host, tag (of all hosts, or with host of one), or all=yes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_as_a_query() {
        let tag =
            |tag: &str, host: Option<&str>| PurgeTarget::Tag { tag: tag.to_owned(), host: host.map(str::to_owned) };
        for target in [
            PurgeTarget::Url("https://a.test/x?q=1&r=%41".to_owned()),
            PurgeTarget::Prefix("http://a.test/dir/".to_owned()),
            PurgeTarget::Host("a.test:8080".to_owned()),
            tag("a b&c=d%", None),
            tag("ü", Some("a.test")),
            PurgeTarget::All,
        ] {
            for hard in [false, true] {
                let order = Order { target: target.clone(), hard, wait: Duration::from_millis(1_500) };
                assert_eq!(Order::parse(&order.query()), Ok(order));
            }
        }
    }

    // R03: a purge of everything by mistake.
    #[test]
    fn an_order_that_is_not_clear_is_refused() {
        for (query, told) in [
            ("", "name one thing"),
            ("url=a&tag=b", "name one thing"),
            ("url=a&host=b", "name one thing"),
            ("host=a&host=b", "named twice"),
            ("all=everything", "all=yes"),
            ("all=yes&hard=yes", "sure=yes"),
            ("tag=a&hard=1", "yes or no"),
            ("tag=a&wait=2h", "wait"),
            ("tag=a&soft=yes", "none of"),
            ("tag=%4", "badly escaped"),
            ("tag=%ff", "badly escaped"),
        ] {
            let error = Order::parse(query).unwrap_err();
            assert!(error.contains(told), "{query}: {error}");
        }
        bolero::check!().with_iterations(5_000).for_each(|bytes: &[u8]| {
            if let Ok(text) = std::str::from_utf8(bytes)
                && let Ok(order) = Order::parse(text)
            {
                assert_eq!(Order::parse(&order.query()), Ok(order));
            }
        });
    }
}
