//! What each subcommand does. `cli` has the words; errors come out as one line on stderr and an exit code: 1 if it failed, 2 if
//! the command line or a scenario file is wrong.

mod cli;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command as Process, ExitCode, Stdio},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};

use self::cli::{Cli, Command, Common};
use crate::{
    checks::{self, Setting},
    config::Config,
    control::{self, Reply, Request, Server},
    draw::draw,
    error::{Doing, Error},
    exec, family,
    lab::{Lab, Stop},
    netns,
    scenario::Scenario,
    state, userns,
};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    match run(&common, command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody left to tell if stderr is closed.
            let _ = writeln!(std::io::stderr(), "lab: {error}");
            let wrong = matches!(error, Error::Scenario { .. } | Error::File { .. } | Error::NoScenario { .. });
            ExitCode::from(if wrong { 2 } else { 1 })
        }
    }
}

fn run(common: &Common, command: Command) -> Result<ExitCode, Error> {
    let config = Config { atoll: common.atoll.clone(), questions: common.questions, ..Config::default() };
    let ask = |request| ask(common, &request);
    match command {
        Command::Up { foreground: false, detached: false, .. } if userns::is_needed() => {
            let why = "as an ordinary user only `up --foreground`, `run` and `test` work, in a user namespace".into();
            return Err(Error::Privilege { why });
        }
        Command::Up { file, foreground: false, detached: false } => return up_detached(common, &file),
        Command::Up { file, detached, .. } => {
            gain_privilege()?;
            up(common, &config, &file, detached)?;
        }
        Command::Status { json } => {
            let status = ask(Request::Status)?.status.ok_or_else(|| Error::Refused { message: "no status".into() })?;
            let text = if json { serde_json::to_string(&status) } else { Ok(status.to_string()) };
            say(text.doing(|| "write the status".into())?.trim_end());
        }
        Command::Exec { host, command } => return exec::run(&which(common)?, &host, &command),
        Command::Cut { from, to, one_way } => drop(ask(Request::Cut { from, to, one_way })?),
        Command::Heal { from, to } => drop(ask(Request::Heal { from, to })?),
        Command::Slow { host, extra } => drop(ask(Request::Slow { host, extra })?),
        Command::Kill { host, signal } => drop(ask(Request::Kill { host, signal })?),
        Command::Start { host } => drop(ask(Request::Start { host })?),
        Command::Down { all } => down(common, &config, all)?,
        Command::Draw { file } => {
            say(draw(&Scenario::read(&file, common.matrix.as_deref(), common.scale())?).trim_end())
        }
        Command::Test { only, or_skip } => {
            let setting = match setting(common, config) {
                Err(why @ (Error::Privilege { .. } | Error::Tun { .. })) if or_skip => {
                    say(&format!("lab: every scenario is skipped: {why}"));
                    say(&checks::skipped());
                    return Ok(ExitCode::SUCCESS);
                }
                setting => setting?,
            };
            let holds = checks::all(&only, &setting, &mut |line| say(line))?;
            return Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Run { scenario, json } => {
            let chosen = checks::choose(&scenario, common.matrix.as_deref(), common.scale())?;
            let outcome = checks::one(&chosen, &setting(common, config)?);
            say(if json { outcome.to_json() } else { outcome.to_string() }.trim_end());
            return Ok(if outcome.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Init => family::first_process(),
        Command::Become { host, command } => match exec::become_it(&which(common)?, &host, &command)? {},
    }
    Ok(ExitCode::SUCCESS)
}

/// How scenarios are run, on a machine that can.
fn setting(common: &Common, config: Config) -> Result<Setting, Error> {
    gain_privilege()?;
    netns::check_devices()?;
    let (matrix, artefacts) = (common.matrix.clone(), common.artefacts.clone());
    Ok(Setting { config, matrix, scale: common.scale(), artefacts, stop: heed_signals() })
}

/// Root stays as it is; others become root of a user namespace, if the kernel lets them.
fn gain_privilege() -> Result<(), Error> {
    if userns::is_needed() {
        userns::enter()?;
        let own = std::process::id();
        // Not among what a command prints: that may be JSON.
        let hint = "in a user namespace; look inside with: nsenter --preserve-credentials -U -m -t";
        let _ = writeln!(std::io::stderr(), "lab: {hint} {own} atoll-lab status");
    }
    netns::check_privilege()
}

/// Brings a lab up in this process and serves it to its end.
fn up(common: &Common, config: &Config, file: &Path, detached: bool) -> Result<(), Error> {
    if detached {
        // Out of the terminal's reach; it fails only if this is a group's leader already.
        let _ = setsid();
    }
    let stop = heed_signals();
    let scenario = Scenario::read(file, common.matrix.as_deref(), common.scale())?;
    let lab = Lab::up(scenario, config, &stop)?;
    let server = Server::bind(&lab)?;
    say(&format!("{READY} {} ({} hosts)", lab.scenario().name, lab.scenario().hosts.len()));
    server.serve();
    Ok(())
}

/// Starts this program again with `--detached` and waits until it is ready or has failed.
fn up_detached(common: &Common, file: &Path) -> Result<ExitCode, Error> {
    netns::check_privilege()?;
    let own = std::env::current_exe().doing(|| "find this program".into())?;
    let mut process = Process::new(own);
    process.arg("up").arg(file).arg("--detached").args(common.of_a_lab());
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = process.spawn().doing(|| "start the lab's own process".into())?;
    let owner = i32::try_from(child.id()).map(Pid::from_raw);
    on_signal(move || {
        if let Ok(owner) = owner {
            // Gone already, then: its error is on its way.
            let _ = kill(owner, Signal::SIGTERM);
        }
    });
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        // Whatever it is, an empty line says that it failed.
        let _ = BufReader::new(pipe).read_line(&mut line);
    }
    if line.starts_with(READY) {
        say(&format!("{} in {:.1} s; end it with `lab down`", line.trim(), start.elapsed().as_secs_f64()));
        return Ok(ExitCode::SUCCESS);
    }
    let output = child.wait_with_output().doing(|| "wait for the lab's own process".into())?;
    let _ = std::io::stderr().write_all(&output.stderr);
    Ok(ExitCode::from(u8::try_from(output.status.code().unwrap_or(1)).unwrap_or(1)))
}

fn down(common: &Common, config: &Config, all: bool) -> Result<(), Error> {
    netns::check_privilege()?;
    let living = state::living();
    let chosen: Vec<String> = match &common.lab {
        Some(lab) => living.into_iter().filter(|known| known == lab).collect(),
        None if !all && living.len() > 1 => return Err(Error::WhichLab { names: living.join(", ") }),
        None => living,
    };
    for lab in &chosen {
        end(config, lab)?;
        say(&format!("lab {lab}: down"));
    }
    let swept = state::sweep_stale()?;
    for lab in swept.iter().filter(|lab| !chosen.contains(lab)) {
        say(&format!("lab {lab}: removed what a crash had left"));
    }
    if chosen.is_empty() && swept.is_empty() {
        say("nothing was up, nothing was left");
    }
    Ok(())
}

/// Asks a lab to end and waits for it; one that does not answer is killed and swept.
fn end(config: &Config, lab: &str) -> Result<(), Error> {
    let owner = state::description(lab).map(|known| known.pid);
    let asked = control::ask(&state::socket(lab), &Request::Down);
    let patience = if asked.is_ok() { config.start_deadline } else { Duration::from_secs(2) };
    // While the lock is held the pid is its owner's.
    if is_up_after(lab, patience) {
        if let Some(owner) = owner.and_then(|owner| i32::try_from(owner).ok()) {
            match kill(Pid::from_raw(owner), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).doing(|| format!("end the process {owner}")),
            }
        }
        // Its namespaces can be swept once it is dead, and no sooner.
        is_up_after(lab, config.start_deadline);
    }
    Ok(())
}

/// Waits until a lab has no owner any more, this long at most.
fn is_up_after(lab: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while state::is_held(lab) {
        if Instant::now() > deadline {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn ask(common: &Common, request: &Request) -> Result<Reply, Error> {
    control::ask(&state::socket(&which(common)?), request)
}

/// The lab that was named, or the only one.
fn which(common: &Common) -> Result<String, Error> {
    let mut living = state::living();
    match &common.lab {
        Some(lab) if living.contains(lab) => Ok(lab.clone()),
        Some(lab) => Err(Error::NotUp { name: lab.clone() }),
        None if living.len() > 1 => Err(Error::WhichLab { names: living.join(", ") }),
        None => living.pop().ok_or(Error::NoneUp),
    }
}

/// From here on Ctrl-C and SIGTERM set the returned flag instead of ending the process.
fn heed_signals() -> Stop {
    let stop = Stop::default();
    let heard = Arc::clone(&stop);
    on_signal(move || heard.store(true, Ordering::Relaxed));
    stop
}

/// Runs `then` at each SIGINT, SIGTERM or SIGHUP, on a thread of its own. By handlers, not by a mask: programs inherit masks.
fn on_signal(then: impl Fn() + Send + 'static) {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, installed) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
            let _ = sender.send(());
            loop {
                tokio::select! {
                    _ = interrupt.recv() => then(),
                    _ = terminate.recv() => then(),
                    _ = hangup.recv() => then(),
                }
            }
        });
    });
    // An error means that they cannot be heard; they then end this process as ever, and `lab down` removes what is left.
    let _ = installed.recv();
}

fn say(text: &str) {
    // A closed pipe is the reader's choice.
    let _ = writeln!(std::io::stdout(), "{text}");
}

const READY: &str = "up:";
