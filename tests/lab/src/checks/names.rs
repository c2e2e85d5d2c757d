//! The lab about itself: each resolver program finds a static zone through root and TLD, and a thin origin is as slow as it must be.

use std::time::Duration;

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Stage, http, look_up, ms},
};
use crate::{error::Error, measure::fetch, scenario::Role};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    let mut client = lab.scenario().host("client")?.clone();
    for resolver in lab.scenario().with_role(|role| matches!(role, Role::Resolver { .. })) {
        client.resolver = Some(resolver.id);
        let names = ["www.static.test.", "deep.er.static.test.", "www.site.test.", "origin.lab."];
        let found: Vec<_> = names.iter().filter_map(|name| look_up(&lab, &client, name).ok()).collect();
        let right = found.iter().filter(|answer| !answer.addresses.is_empty()).count();
        stage.claim(format!("{}/resolved", resolver.name), percent(right, names.len()), "%", Wanted::Exactly(100.0));
        stage.figure(
            format!("{}/first_lookup", resolver.name),
            found.first().map_or(f64::NAN, |answer| ms(answer.took)),
            "ms",
        );
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
