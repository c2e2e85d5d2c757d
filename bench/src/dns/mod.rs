//! `cargo xtask bench dns`: a dynamic answer of two A records for 10,000 different names, beside the same work done by NSD and
//! Knot (static wildcards), by gdnsd (weighted), by hickory-server and by a bare loop that parses no more than it must. Each
//! server runs alone on core 0, the load comes from core 1; contenders take turns within each round, medians stand.

mod hickory;
mod load;
mod servers;

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use load::Names;
use servers::{Contender, Folder};
pub(crate) use servers::{Serve, serve};

use crate::{
    process::Process,
    report::{Report, Row},
    rounds::median,
};

/// How much is measured
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds in which every contender takes its turn; 5 take four minutes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Leave out cold prefixes, the memory after a million names and the start with a large zone
    #[arg(long)]
    quick: bool,
}

/// Runs it all.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let mut report = Report::new("dns: 10,000 names, 2 A records, EDNS, one core");
    let folder = Folder::new()?;
    let mut contenders = Vec::new();
    for contender in CONTENDERS {
        match contender.is_here() {
            true => contenders.push(contender),
            false => report.note(format!("{} is not installed and left out", contender.name())),
        }
    }
    crate::process::pin(std::process::id(), &[1])?;
    let mut figures: Vec<Figures> = contenders.iter().map(|_| Figures::default()).collect();
    for round in 0..options.rounds {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            let (process, address) = contender.start(&folder)?;
            measure(&process, address, figures)?;
            crate::report::print(&format!("round {round}: {} {}", contender.name(), figures.last()));
        }
    }
    // Before medians put the rounds out of their order.
    let ratios = [
        ("cpu_over_the_cheapest", &AUTHORITIES[..], 1.0),
        ("cpu_over_hickory", &[Contender::Hickory][..], 0.65),
        ("cpu_over_the_bare_loop", &[Contender::Bare][..], 1.1),
    ]
    .map(|(name, peers, most)| Some(over(name, peers, &contenders, &figures)?.at_most(most)));
    let mut row = |name: &str, unit: &str, of: fn(&mut Figures) -> &mut Vec<f64>| {
        row(&contenders, &mut figures, (name, unit), of)
    };
    report.add(row("cpu_per_query", "us", |figures| &mut figures.cpu));
    ratios.into_iter().flatten().for_each(|row| report.add(row));
    report.add(row("queries_per_second", "1/s", |figures| &mut figures.rate));
    let p50 = row("p50_at_half_rate", "us", |figures| &mut figures.p50);
    report.add(match p50.least_of(&AUTHORITIES.map(Contender::name)) {
        Some(best) => p50.at_most(best),
        None => p50,
    });
    report.add(row("p99_at_half_rate", "us", |figures| &mut figures.p99));
    report.add(row("cpu_at_half_rate", "us", |figures| &mut figures.cpu_at_half));
    for row in signed(&folder, options.rounds)? {
        report.add(row);
    }
    if !options.quick {
        report.add(cold_prefixes(&folder)?);
        report.add(random_names(&folder)?);
        report.add(startup(&folder)?);
    }
    report.note("atoll, udp_awake 0: the same server, which sleeps as soon as no question is there".to_owned());
    report.note("bare: recvmmsg, hand parser, 2 A records, sendmmsg, in this program".to_owned());
    report.note(
        "gdnsd: one of 32 pairs by weight; hickory: its UDP path and codec on one socket, 2 A records".to_owned(),
    );
    Ok(report)
}

#[derive(Default)]
struct Figures {
    cpu: Vec<f64>,
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu_at_half: Vec<f64>,
}

impl Figures {
    fn last(&self) -> String {
        let last = |figures: &[f64]| figures.last().copied().unwrap_or(f64::NAN);
        let (cpu, rate, p50, at_half) = (last(&self.cpu), last(&self.rate), last(&self.p50), last(&self.cpu_at_half));
        format!("{cpu:.2} us a query, {rate:.0}/s; at half of that {at_half:.2} us a query, p50 {p50:.0} us")
    }
}

fn measure(process: &Process, address: SocketAddr, figures: &mut Figures) -> Result<(), String> {
    // Caches fill and prefixes are measured before anything counts.
    load::closed(address, WARM_UP)?;
    let before = process.cpu_seconds()?;
    let closed = load::closed(address, LOADED)?;
    let used = process.cpu_seconds()? - before;
    figures.cpu.push(used * 1e6 / closed.answers);
    figures.rate.push(closed.answers / closed.seconds);
    let before = process.cpu_seconds()?;
    let mut latencies = load::open(address, closed.answers / closed.seconds / 2.0, LOADED)?;
    figures.cpu_at_half.push((process.cpu_seconds()? - before) * 1e6 / latencies.len() as f64);
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
        let place = (latencies.len() as f64 * share) as usize;
        latencies.get(place).copied().unwrap_or(f64::NAN)
    };
    figures.p50.push(at(0.5));
    figures.p99.push(at(0.99));
    Ok(())
}

/// One row: ours, and each other's.
fn row(
    contenders: &[Contender],
    figures: &mut [Figures],
    (name, unit): (&str, &str),
    of: fn(&mut Figures) -> &mut Vec<f64>,
) -> Row {
    let medians: Vec<(Contender, f64)> =
        contenders.iter().copied().zip(figures.iter_mut().map(|figures| median(of(figures)))).collect();
    let ours =
        medians.iter().find(|(contender, _)| *contender == Contender::Atoll).map_or(f64::NAN, |(_, value)| *value);
    let mut row = Row::new(name, ours, unit);
    for (contender, value) in medians.into_iter().filter(|(contender, _)| *contender != Contender::Atoll) {
        row = row.against(contender.name(), value);
    }
    row
}

/// Our CPU a query over that of the cheapest of these, round by round, so that the machine's own drift falls out.
fn over(name: &str, peers: &[Contender], contenders: &[Contender], figures: &[Figures]) -> Option<Row> {
    let cpu = |wanted: Contender| {
        let at = contenders.iter().position(|contender| *contender == wanted)?;
        figures.get(at).map(|figures| figures.cpu.as_slice())
    };
    let ours = cpu(Contender::Atoll)?;
    let ratios = |peer: &[f64]| {
        let mut ratios: Vec<f64> = ours.iter().zip(peer).map(|(ours, theirs)| ours / theirs).collect();
        median(&mut ratios)
    };
    let each = peers.iter().filter_map(|peer| Some((*peer, ratios(cpu(*peer)?))));
    let each: Vec<(Contender, f64)> = each.collect();
    let worst = each.iter().map(|(_, ratio)| *ratio).max_by(f64::total_cmp)?;
    let mut row = Row::new(name, worst, "x");
    for (peer, ratio) in each {
        row = row.against(peer.name(), ratio);
    }
    Some(row)
}

/// What signatures cost: answers whose signatures are kept, and denials that are each signed anew, beside the same server
/// unsigned.
fn signed(folder: &Folder, rounds: u32) -> Result<Vec<Row>, String> {
    let mut cpu: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        let (plain, address) = Contender::Atoll.start(folder)?;
        let mut names = [Names::new(), Names::signed(false), Names::signed(true)];
        let [unsigned, kept, fresh] = &mut names;
        let take = |process: &Process, address, names: &mut Names, into: &mut Vec<f64>| {
            load::closed_with(address, WARM_UP, names)?;
            let before = process.cpu_seconds()?;
            let closed = load::closed_with(address, LOADED, names)?;
            into.push((process.cpu_seconds()? - before) * 1e6 / closed.answers);
            Ok::<(), String>(())
        };
        let [first, second, third] = &mut cpu;
        take(&plain, address, unsigned, first)?;
        drop(plain);
        let (process, address) = Contender::Signed.start(folder)?;
        take(&process, address, kept, second)?;
        take(&process, address, fresh, third)?;
    }
    let [unsigned, kept, fresh] = cpu.each_mut().map(|figures| median(figures));
    Ok(vec![
        Row::new("cpu_per_signed_answer_kept", kept, "us").against("unsigned", unsigned),
        Row::new("cpu_per_denial_signed_anew", fresh, "us").against("unsigned", unsigned),
    ])
}

/// How long the first answers to 10,000 prefixes take that nothing is known of yet, at `wait = false`: the 99th percentile.
fn cold_prefixes(folder: &Folder) -> Result<Row, String> {
    let (_process, address) = Contender::Atoll.start(folder)?;
    let mut latencies = load::strangers(address, 10_000)?;
    latencies.sort_by(f64::total_cmp);
    let at = |part: usize| latencies.get(latencies.len() * part / 100).copied().unwrap_or(f64::NAN);
    Ok(Row::new("p99_of_cold_prefixes", at(99), "us").against("p50", at(50)).at_most(5_000.0))
}

/// How much memory grows over a million random names.
fn random_names(folder: &Folder) -> Result<Row, String> {
    let (process, address) = Contender::Atoll.start(folder)?;
    load::closed(address, WARM_UP)?;
    let before = process.resident()?;
    load::random(address, 1_000_000)?;
    let after = process.resident()?;
    let row = Row::new("memory_after_1e6_random_names", after / 1024.0, "KiB").against("before", before / 1024.0);
    Ok(row.at_most(before / 1024.0 * 1.05))
}

/// From the start of the process to the first answer, with 100,000 records in a zone file.
fn startup(folder: &Folder) -> Result<Row, String> {
    let zone = folder.large_zone(100_000)?;
    let mut times = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let address = folder.address();
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["dns-serve", "plain", &address.to_string()]).arg("--zone-file").arg(&zone);
        let _process = Process::spawn(&mut command, &[0])?;
        servers::wait(address, "h99999.nyud.example")?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Row::new("startup_with_100000_records", median(&mut times), "ms").at_most(1_000.0))
}

/// What our answers must cost no more than, and come no later than.
const AUTHORITIES: [Contender; 3] = [Contender::Nsd, Contender::Knot, Contender::Gdnsd];
const CONTENDERS: [Contender; 7] = [
    Contender::Bare,
    Contender::Atoll,
    Contender::Asleep,
    Contender::Nsd,
    Contender::Knot,
    Contender::Gdnsd,
    Contender::Hickory,
];
const WARM_UP: Duration = Duration::from_millis(500);
const LOADED: Duration = Duration::from_secs(2);
