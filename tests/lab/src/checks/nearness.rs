//! Whether clients are sent to near proxies: the questions and the claims of scenarios 1 and 6.

use std::{collections::BTreeMap, time::Duration};

use super::{
    outcome::{Wanted, percent, quantile},
    stage::{MIDDLE, NEAR, Stage, http, look_up_each, ms, named, nodes, say_aside},
    why,
};
use crate::{
    address::HostId,
    lab::Lab,
    measure::fetch,
    scenario::{Host, Role},
    units::millis,
};

/// One answer as a client sees it.
pub(super) struct Sent {
    client: String,
    site: String,
    node: String,
    /// The client's resolver.
    pub(super) program: &'static str,
    to: Duration,
    best: Duration,
}

/// What clients were answered about sites that nobody had asked for.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) sent: Vec<Sent>,
    asked: usize,
    /// Answers without a live node's address, in words.
    wrong: Vec<String>,
    /// Which nodes gave which clients a page.
    lives: BTreeMap<(HostId, HostId), bool>,
}

impl Answers {
    /// All clients ask for so many sites: at full scale for one after the other, at short scale for all at once.
    pub(super) fn about(sites: usize, stage: &Stage<'_>, lab: &Lab) -> Self {
        let names: Vec<String> =
            (0..sites).map(|site| format!("www.site{site}.test.{}.", lab.scenario().zone)).collect();
        let mut answers = Self::default();
        let asked = names.chunks(stage.by_scale(sites, 1)).flat_map(|names| look_up_each(lab, names));
        for (client, name, answer) in asked {
            answers.asked += 1;
            match answer {
                Ok(answer) => {
                    let first = named(&answer).first().copied();
                    match first.and_then(|first| nodes(lab).into_iter().find(|node| node.id == first)) {
                        Some(node) if serves(lab, client, node, &mut answers.lives) => {
                            answers.sent.push(judge(lab, client, &name, node));
                        }
                        Some(node) => answers.wrong.push(format!("{}: {} does not serve", client.name, node.name)),
                        None => answers.wrong.push(format!("{} got {} without a node", client.name, answer.code)),
                    }
                }
                Err(error) => answers.wrong.push(format!("{}: {error}", client.name)),
            }
        }
        answers
    }

    /// Claims that all were answered, and how near.
    pub(super) fn claim(&self, stage: &mut Stage<'_>, lab: &Lab, of: &str) {
        stage.claim(format!("{of}/answered"), percent(self.sent.len(), self.asked), "%", Wanted::Exactly(100.0));
        claims(stage, of, &self.sent.iter().collect::<Vec<_>>());
        self.explain(lab, of);
    }

    /// Who was sent too far, and why; and who got nothing.
    fn explain(&self, lab: &Lab, of: &str) {
        let limit = |sent: &Sent| if sent.best < NEAR { NEAR } else { MIDDLE };
        let is_far = |sent: &&Sent| sent.best < MIDDLE && sent.to >= limit(sent);
        for (number, sent) in self.sent.iter().filter(is_far).enumerate() {
            let (to, best) = (millis(sent.to), millis(sent.best));
            say_aside(&format!(
                "  {of}: {} sent to {} for {} at {to} ms, one is at {best} ms",
                sent.client, sent.node, sent.site
            ));
            if number < EXPLAINED {
                why::say(lab, &sent.client, &sent.site);
            }
        }
        self.wrong.iter().for_each(|line| say_aside(&format!("  {of}: {line}")));
    }
}

/// Whether a node answers a client by HTTP, whatever: asked once for each two.
fn serves(lab: &Lab, client: &Host, node: &Host, lives: &mut BTreeMap<(HostId, HostId), bool>) -> bool {
    *lives.entry((client.id, node.id)).or_insert_with(|| {
        let host = format!("www.site.test.{}", lab.scenario().zone);
        let get = || fetch(http(node.id.v4().into()), &host, "/", PATIENCE, 1 << 20);
        matches!(lab.within(&client.name, get), Ok(Ok(_)))
    })
}

fn judge(lab: &Lab, client: &Host, name: &str, to: &Host) -> Sent {
    let scenario = lab.scenario();
    let best = nodes(lab).iter().map(|node| scenario.rtt(client.id, node.id)).min().unwrap_or_default();
    let (node, to) = (to.name.clone(), scenario.rtt(client.id, to.id));
    let site = name.split('.').nth(1).unwrap_or_default().to_owned();
    Sent { client: client.name.clone(), site, node, program: program(lab, client), to, best }
}

/// As the issue of the lab has them: near where there is a near one, in the middle where that is the best there is, and in the
/// median not much farther than need be. A share of nothing shows nothing, and so fails.
pub(super) fn claims(stage: &mut Stage<'_>, of: &str, sent: &[&Sent]) {
    let share = |could: &dyn Fn(&Sent) -> bool, under: Duration| {
        let could: Vec<_> = sent.iter().filter(|sent| could(sent)).collect();
        percent(could.iter().filter(|sent| sent.to < under).count(), could.len())
    };
    let near = share(&|sent| sent.best < NEAR, NEAR);
    let middle = share(&|sent| sent.best >= NEAR && sent.best < MIDDLE, MIDDLE);
    for (name, value, least) in [("near_when_near_exists", near, 95.0), ("middle_when_middle_exists", middle, 90.0)] {
        stage.claim(format!("{of}/{name}"), value, "%", stage.share(least));
    }
    let best = median(sent, |sent| sent.best);
    stage.figure(format!("{of}/best_rtt_p50"), best, "ms");
    // At short scale a median of few: held to no more than what is near at all.
    let most = (best * 1.3).max(best + stage.by_scale(ms(NEAR), 10.0));
    stage.claim(format!("{of}/rtt_p50"), median(sent, |sent| sent.to), "ms", Wanted::AtMost(most));
}

/// The medians alone.
pub(super) fn figures(stage: &mut Stage<'_>, of: &str, sent: &[&Sent]) {
    stage.figure(format!("{of}/best_rtt_p50"), median(sent, |sent| sent.best), "ms");
    stage.figure(format!("{of}/rtt_p50"), median(sent, |sent| sent.to), "ms");
}

fn median(sent: &[&Sent], of: impl Fn(&Sent) -> Duration) -> f64 {
    quantile(&sent.iter().map(|sent| ms(of(sent))).collect::<Vec<_>>(), 0.5)
}

/// What resolves for a client.
pub(super) fn program(lab: &Lab, client: &Host) -> &'static str {
    match client.resolver.map(|id| &lab.scenario().hosts[id.index()].role) {
        Some(Role::Resolver { program, .. }) => program.name(),
        _ => "none",
    }
}

/// How long a client waits for a sign of life.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers that are led back to the questions behind them.
const EXPLAINED: usize = 6;
