//! A tag is purged on all nodes while one of them is cut off from the others, both ways and then, at full scale, one way (bad-inputs P08,
//! C10): how soon the others have applied it, and whether anybody gives out the old copy who has said that it did. The one that is away
//! has noticed, and may reach the origin, so it never gives out the old copy at all; once it is back it applies what it missed.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Stage, http, nodes},
};
use crate::{
    address::HostId,
    error::{Doing, Error},
    lab::Lab,
    measure::fetch,
    router::Change,
    scenario::Host,
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.go_on()?;
    stage.whole_within(&lab, Duration::from_secs(stage.by_scale(20, 90)))?;
    for (name, one_way) in stage.by_scale(&ROUNDS[..1], &ROUNDS[..]) {
        round(stage, &lab, name, *one_way)?;
    }
    Ok(())
}

/// What a round is called, and whether what the others say still comes through.
const ROUNDS: [(&str, bool); 2] = [("away", false), ("unheard", true)];

/// What a node answered: when it was asked, and whether that was the new file.
type Answers = Mutex<BTreeMap<HostId, Vec<(Instant, bool)>>>;

fn round(stage: &mut Stage<'_>, lab: &Lab, name: &str, one_way: bool) -> Result<(), Error> {
    let all = nodes(lab);
    let (Some(first), Some(away)) = (all.first(), all.last()) else { return Ok(()) };
    let ids: BTreeMap<HostId, String> = all.iter().map(|node| (node.id, id_of(lab, node))).collect();
    let (host, files) = origin(lab)?;
    let file = lab.folder(&host.name)?.join("www").join(files[0].path.trim_start_matches('/'));
    let (old, new) = ([name, " old"].concat().into_bytes(), [name, " new"].concat().into_bytes());
    // The same length either way: nothing but the bytes tells them apart.
    let write = |bytes: &[u8]| fs::write(&file, bytes).doing(|| format!("write {}", file.display()));
    write(&old)?;
    order(lab, first, "")?;
    let holds = |bytes: &[u8]| all.iter().filter(|node| get(lab, node).as_deref() == Some(bytes)).count();
    stage.wait_until(Duration::from_secs(30), || holds(&old) == all.len())?;
    stage.claim(format!("{name}_held_before"), percent(holds(&old), all.len()), "%", Wanted::Exactly(100.0));
    let others = all.iter().map(|node| node.id).filter(|id| *id != away.id).collect();
    lab.change(Change::Cut { from: vec![away.id], to: others, one_way });
    let cut = Instant::now();
    let noticed = stage.wait_until(Duration::from_secs(30), || doubts(lab, away, &files[0].path))?;
    let seconds = if noticed { cut.elapsed().as_secs_f64() } else { f64::NAN };
    stage.claim(format!("{name}_noticed_after"), seconds, "s", Wanted::AtMost(stage.by_scale(30.0, 10.0)));
    write(&new)?;
    let (answers, over) = (Answers::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for node in &all {
            let (answers, over) = (&answers, &over);
            scope.spawn(move || ask_on(lab, node, &new_of(name), answers, over));
        }
        let watched = watch(stage, lab, (name, first, away), &ids, &answers);
        over.store(true, Ordering::Relaxed);
        watched
    })
}

fn new_of(name: &str) -> Vec<u8> {
    [name, " new"].concat().into_bytes()
}

/// Purges, and makes the claims.
fn watch(
    stage: &mut Stage<'_>,
    lab: &Lab,
    (name, first, away): (&str, &Host, &Host),
    ids: &BTreeMap<HostId, String>,
    answers: &Answers,
) -> Result<(), Error> {
    let before = purges(lab, first);
    let ordered = Instant::now();
    let (mut purge, mut applied) = (String::new(), BTreeMap::new());
    let reachable = ids.len() - 1;
    // It tells all and hears who has applied it for as long as this: a while, too, in which nobody may fall back.
    std::thread::scope(|scope| {
        let ordering = scope.spawn(|| order(lab, first, "&wait=4s"));
        let told = stage.wait_until(Duration::from_secs(10), || {
            if purge.is_empty() {
                purge = purges(lab, first).into_iter().find(|one| !before.contains(one)).unwrap_or_default();
            }
            note(lab, first, &purge, ids, &mut applied);
            applied.len() >= reachable
        });
        ordering.join().unwrap_or(Ok(())).and(told)
    })?;
    let within = applied.values().map(|at: &Instant| at.duration_since(ordered).as_secs_f64()).fold(0.0, f64::max);
    let seconds = if applied.len() >= reachable { within } else { f64::NAN };
    stage.claim(format!("{name}_applied_by_others_after"), seconds, "s", Wanted::AtMost(stage.by_scale(10.0, 2.0)));
    lab.change(Change::HealAll);
    let healed = Instant::now();
    // What it says itself: the others hear of it later.
    let caught_up = stage.wait_until(Duration::from_secs(30), || purges(lab, away).contains(&purge))?;
    if caught_up {
        applied.entry(away.id).or_insert_with(Instant::now);
    }
    let back = if caught_up { healed.elapsed().as_secs_f64() } else { f64::NAN };
    stage.claim(format!("{name}_applied_by_it_after_healing"), back, "s", Wanted::AtMost(30.0));
    stage.wait(Duration::from_secs(2))?;
    let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    let stale_since = |id: HostId, since: Instant| {
        let stale = |(asked, new): &&(Instant, bool)| *asked > since && !new;
        answers.get(&id).map_or(0, |all| all.iter().filter(stale).count())
    };
    let stale: usize = applied.iter().map(|(id, at)| stale_since(*id, *at)).sum();
    stage.claim(format!("{name}_stale_after_acknowledging"), stale as f64, "", Wanted::Exactly(0.0));
    stage.claim(format!("{name}_stale_of_it"), stale_since(away.id, ordered) as f64, "", Wanted::Exactly(0.0));
    let count: usize = answers.values().map(Vec::len).sum();
    stage.figure(format!("{name}_answers"), count as f64, "");
    Ok(())
}

/// Whether a node would ask the origin about its copy before it gives it out.
fn doubts(lab: &Lab, node: &Host, path: &str) -> bool {
    let copies = admin(lab, node, &format!("GET /copies?url=http://www.site.test{path}")).unwrap_or_default();
    copies["nodes"][0]["copies"][0]["purged"] == true
}

/// Purges the tag that all files of the origin carry.
fn order(lab: &Lab, node: &Host, more: &str) -> Result<(), Error> {
    admin(lab, node, &format!("POST /purge?tag=lab{more}")).map(drop)
}

/// The names of the purges that a node has applied.
fn purges(lab: &Lab, node: &Host) -> Vec<String> {
    let reports = admin(lab, node, "GET /purges").unwrap_or_default();
    let names = reports.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    names.filter_map(|report| report["purge"].as_str()).map(str::to_owned).collect()
}

/// Notes who has said by now that it applied a purge.
fn note(lab: &Lab, node: &Host, purge: &str, ids: &BTreeMap<HostId, String>, applied: &mut BTreeMap<HostId, Instant>) {
    let reports = admin(lab, node, "GET /purges").unwrap_or_default();
    let report = reports.as_array().and_then(|all| all.iter().find(|report| report["purge"] == purge));
    let acks = report.and_then(|report| report["nodes"].as_array()).map(Vec::as_slice).unwrap_or_default();
    for ack in acks.iter().filter(|ack| ack["applied"] == true) {
        if let Some((host, _)) = ids.iter().find(|(_, id)| ack["node"] == id.as_str()) {
            applied.entry(*host).or_insert_with(Instant::now);
        }
    }
}

/// Asks a node for the file over and over.
fn ask_on(lab: &Lab, node: &Host, new: &[u8], answers: &Answers, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) && !lab.stopping().load(Ordering::Relaxed) {
        let asked = Instant::now();
        if let Some(body) = get(lab, node) {
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.entry(node.id).or_default().push((asked, body == new));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The file as a node gives it to a client on its own machine.
fn get(lab: &Lab, node: &Host) -> Option<Vec<u8>> {
    let (_, files) = origin(lab).ok()?;
    let name = format!("www.site.test.{}", lab.scenario().zone);
    let get = || fetch(http(node.id.v4().into()), &name, &files[0].path, Duration::from_secs(5), 1 << 20);
    let fetched = lab.within(&node.name, get).ok()?.ok()?;
    (fetched.status == 200).then_some(fetched.body)
}

fn id_of(lab: &Lab, node: &Host) -> String {
    let status = lab.node_status(&node.name).unwrap_or_default();
    status["id"].as_str().unwrap_or_default().to_owned()
}

/// Asks a node's admin socket something.
fn admin(lab: &Lab, node: &Host, what: &str) -> Result<serde_json::Value, Error> {
    let socket = lab.folder(&node.name)?.join("state/admin.sock");
    let ask = || {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().doing(|| format!("ask {}", socket.display()))?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    serde_json::from_slice(&answer[body..])
        .map_err(|error| Error::Refused { message: format!("`{what}` of {}: {error}", node.name) })
}
