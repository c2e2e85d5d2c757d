//! The lab about itself: each resolver program finds a static zone through root and TLD, telling both no more of a name than they
//! need, and a thin origin is as slow as it must be.

use std::{collections::BTreeSet, time::Duration};

use hickory_proto::rr::Name;
use nix::sys::signal::Signal;

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Stage, http, look_up, ms},
};
use crate::{
    error::Error,
    lab::Lab,
    measure::fetch,
    scenario::{Host, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    let mut client = lab.scenario().host("client")?.clone();
    for resolver in lab.scenario().with_role(|role| matches!(role, Role::Resolver { .. })) {
        client.resolver = Some(resolver.id);
        let found: Vec<_> = NAMES.iter().filter_map(|name| look_up(&lab, &client, name).ok()).collect();
        let right = found.iter().filter(|answer| !answer.addresses.is_empty()).count();
        stage.claim(format!("{}/resolved", resolver.name), percent(right, NAMES.len()), "%", Wanted::Exactly(100.0));
        stage.figure(
            format!("{}/first_lookup", resolver.name),
            found.first().map_or(f64::NAN, |answer| ms(answer.took)),
            "ms",
        );
        let mut told = Told::of(&lab, resolver, NAMES.iter().map(|name| (*name).to_owned()));
        // Whole names are also what is tried, by the book, when an answer is late: on a busy machine, where short scale runs, that
        // happens. Whoever tells some every time does not minimise.
        for again in 0..stage.by_scale(AGAIN, 0) {
            if told.whole == 0 {
                break;
            }
            lab.kill(&resolver.name, Signal::SIGTERM)?;
            lab.start(&resolver.name)?;
            let fresh = NAMES.map(|name| format!("{name}again{again}.{WILD}"));
            let right = |name: &String| look_up(&lab, &client, name).is_ok_and(|found| !found.addresses.is_empty());
            // Of what was not asked nothing can be told.
            if fresh.iter().filter(|name| right(name)).count() == NAMES.len() {
                told = Told::of(&lab, resolver, fresh.into_iter());
            }
        }
        stage.claim(format!("{}/told_the_tld", resolver.name), told.parts as f64, "", Wanted::AtLeast(1.0));
        stage.claim(format!("{}/told_the_tld_whole", resolver.name), told.whole as f64, "", Wanted::Exactly(0.0));
    }
    let (origin, files) = origin(&lab)?;
    let file = files.first().ok_or_else(|| Error::Refused { message: "the origin has no file".into() })?;
    let get = || fetch(http(origin.id.v4().into()), "www.site.test", &file.path, Duration::from_secs(60), 1 << 24);
    let fetched =
        lab.within("client", get)?.map_err(|error| Error::Refused { message: format!("the origin: {error}") })?;
    let body = origin.up.map_or(Duration::ZERO, |up| up.time_for(fetched.body.len()));
    let least = body + 2 * lab.scenario().rtt(client.id, origin.id);
    stage.figure("origin/least", ms(least), "ms");
    stage.claim("origin/took", ms(fetched.took), "ms", Wanted::AtLeast(ms(least)));
    Ok(())
}

/// What root and TLD were asked by a resolver about `static.test`, which the TLD delegates.
struct Told {
    /// Names in it, whole or not.
    parts: usize,
    /// Of these names, those that they were told whole.
    whole: usize,
}

impl Told {
    fn of(lab: &Lab, resolver: &Host, names: impl Iterator<Item = String>) -> Self {
        let name = |text: &str| Name::from_ascii(text).unwrap_or_default();
        let (zone, watch) = (name(DELEGATED), lab.watch());
        let above = lab.scenario().with_role(|role| matches!(role, Role::Root(_) | Role::Tld(..)));
        let told: BTreeSet<Name> =
            above.filter_map(|server| watch.names.get(&(resolver.id, server.id))).flatten().cloned().collect();
        let whole = names.map(|whole| name(&whole)).filter(|whole| zone.zone_of(whole) && told.contains(whole)).count();
        Self { parts: told.iter().filter(|told| zone.zone_of(told)).count(), whole }
    }
}

const NAMES: [&str; 4] = ["www.static.test.", "deep.er.static.test.", "www.site.test.", "origin.lab."];
/// The zone that the TLD delegates.
const DELEGATED: &str = "static.test.";
/// Under it every name has an address.
const WILD: &str = "wild.static.test.";
/// How often a resolver is tried again at most at short scale, with an empty cache and as many names that it never heard.
const AGAIN: usize = 3;
