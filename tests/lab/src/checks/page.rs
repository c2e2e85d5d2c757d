//! The page of scenario 1: a browser loads it through Atoll by its own resolver; every image must be whole and come from a proxy.

use std::time::Duration;

use super::{
    flash_crowd::{origin, origin_log},
    outcome::Wanted,
    stage::{Stage, say_aside},
};
use crate::{
    error::{Doing, Error},
    lab::Lab,
    scenario::Role,
};

/// Loads the origin's page in the first client with a browser; the picture is kept in the folder of artefacts.
pub(super) fn show(stage: &mut Stage<'_>, lab: &Lab, of: &str) -> Result<(), Error> {
    let missing = |what: &str| Error::Refused { message: format!("this scenario needs {what}") };
    let mut browsers = lab.scenario().with_role(|role| matches!(role, Role::Client { browser: true }));
    let client = browsers.next().ok_or_else(|| missing("a client with a browser"))?;
    let (origin, files) = origin(lab)?;
    let page = files.iter().find(|file| file.path.ends_with(".html")).ok_or_else(|| missing("a page"))?;
    let images = files.iter().filter(|file| file.path.ends_with(".bmp")).count();
    let picture = stage.artefact(&format!("{of}.png"))?;
    let url = format!("http://www.site.test.{}{}", lab.scenario().zone, page.path);
    let loaded = lab.browse(&client.name, &url, &picture, PATIENCE)?;
    let number = |name: &str| said(&loaded, name).unwrap_or(f64::NAN);
    stage.claim(format!("{of}/page_images_whole"), number("whole"), "", Wanted::Exactly(images as f64));
    stage.claim(format!("{of}/page_images_from_proxies"), number("proxied"), "", Wanted::Exactly(images as f64));
    stage.figure(format!("{of}/page_loaded_after"), number("milliseconds"), "ms");
    let is_node = |host: &crate::HostId| {
        lab.scenario().hosts.get(host.index()).is_some_and(|host| matches!(host.role, Role::Node { .. }))
    };
    let log = origin_log(lab, origin)?;
    let past = log.iter().filter(|asker| !asker.as_ref().is_some_and(is_node)).count();
    stage.claim(format!("{of}/page_requests_past_the_proxies"), past as f64, "", Wanted::Exactly(0.0));
    let length = std::fs::metadata(&picture).doing(|| format!("keep a picture of {url}"))?.len();
    stage.claim(format!("{of}/page_picture"), length as f64, "bytes", Wanted::AtLeast(1000.0));
    say_aside(&format!("  the page as {} saw it: {}", client.name, picture.display()));
    Ok(())
}

/// What the page's script left in an attribute of the root element.
fn said(page: &str, name: &str) -> Option<f64> {
    page.split(&format!("data-{name}=\"")).nth(1)?.split('"').next()?.parse().ok()
}

/// A browser's cold start on a busy machine, and a page over long distances.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_it_has_only_if_its_script_ran() {
        assert_eq!(said("<html data-whole=\"12\" data-proxied=\"3\">", "proxied"), Some(3.0));
        assert_eq!(said("<html>data-whole</html>", "whole"), None);
    }
}
