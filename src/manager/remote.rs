//! What is asked of a running manager, peer or node from the command line: `atoll warm` and `atoll drain`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use http::{StatusCode, header};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::sleep;

use super::warm::{Progress, Wanted};
use crate::{
    admin,
    cli::{DrainArgs, WarmArgs},
    config::Config,
    front::{
        amount::shown,
        ask::{AskError, Bounds, Line, Place, Question, Reply},
        home,
    },
    out::{complain, plain, say},
};

/// `atoll warm`: exit code 0 if every copy is whole.
pub async fn warm(args: WarmArgs) -> ExitCode {
    match warm_all(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            complain(why);
            ExitCode::FAILURE
        }
    }
}

/// `atoll drain`: exit code 0 once what was asked has left, or, at a manager, was told to.
pub async fn drain(args: DrainArgs) -> ExitCode {
    let outcome = match &args.manager {
        Some(manager) => drain_at(manager, &args).await,
        None => drain_here(&args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(why);
            ExitCode::FAILURE
        }
    }
}

async fn warm_all(args: &WarmArgs) -> Result<bool, String> {
    let manager = args.manager.as_deref().unwrap_or_default();
    let mut desk = Desk::open(manager, args.login.as_deref())?;
    let listed = args.list.as_deref().map(crate::warm::listed).transpose()?.unwrap_or_default();
    let wanted =
        Wanted { copies: args.copies, files: args.files.iter().chain(&listed).map(|file| path_of(file)).collect() };
    let reply = desk.ask(Question::post("/_atoll/warm", &wanted)).await?;
    let mut progress: Progress = reply.json().map_err(|error| error.to_string())?;
    let bars = Bars::new(&wanted.files);
    loop {
        bars.show(&progress);
        let under_way = progress.copies.iter().filter(|copy| !copy.at.done && copy.at.error.is_empty()).count();
        if under_way == 0 {
            break;
        }
        sleep(LOOK).await;
        let reply = desk.ask(Question::get(format!("/_atoll/warm/{}", progress.id))).await?;
        progress = reply.json().map_err(|error| error.to_string())?;
    }
    bars.end();
    for copy in &progress.copies {
        let came = if copy.at.done { shown(copy.at.got) } else { format!("FAILED: {}", plain(&copy.at.error)) };
        say(format_args!("{}  {}  {came}", plain(&copy.at.path), plain(&copy.url)));
    }
    Ok(progress.copies.iter().all(|copy| copy.at.done))
}

async fn drain_at(manager: &str, args: &DrainArgs) -> Result<(), String> {
    let mut desk = Desk::open(manager, args.login.as_deref())?;
    let act = if args.now { "stop" } else { "drain" };
    let target =
        args.node.as_ref().map_or_else(|| format!("/_atoll/{act}"), |node| format!("/_atoll/peers/{node}/{act}"));
    desk.ask(Question::post(target, &())).await?;
    say(match (&args.node, args.now) {
        (None, false) => "the manager is leaving",
        (None, true) => "the manager is stopping",
        (Some(_), false) => "the peer was told to leave",
        (Some(_), true) => "the peer was told to stop",
    });
    Ok(())
}

/// The process on this machine, by its socket: waits until it has gone.
async fn drain_here(args: &DrainArgs) -> Result<(), String> {
    let socket = match (&args.socket, &args.state, &args.config) {
        (Some(socket), ..) => socket.clone(),
        (None, Some(state), _) => state.join("node/admin.sock"),
        (None, None, Some(file)) => {
            let config = Config::load(file).map_err(|error| error.to_string())?;
            config
                .admin_socket()
                .ok_or("this configuration switches the admin socket off (socket = \"\" in [admin])")?
        }
        (None, None, None) => {
            let kinds = ["peer", "manager"].map(|kind| home::first(kind).join("node/admin.sock"));
            let own = kinds.into_iter().find(|socket| socket.exists());
            own.unwrap_or_else(|| PathBuf::from("/var/lib/atoll/admin.sock"))
        }
    };
    let asked = if args.now { admin::ask_stop(&socket).await } else { admin::ask_drain(&socket).await };
    asked.map_err(|error| error.to_string())?;
    say(format_args!("{} is {}", socket.display(), if args.now { "stopping" } else { "leaving" }));
    let mut told = String::new();
    while let Ok(status) = admin::fetch_status(&socket).await {
        let line = format!("{} connections, {} fetches run", status.proxy.connections, status.proxy.flights);
        if line != told {
            say(&line);
            told = line;
        }
        sleep(LOOK).await;
    }
    say("it has left");
    Ok(())
}

/// A manager, asked with the operator's login.
struct Desk {
    line: Line,
    login: String,
}

impl Desk {
    /// The login is the one given, else that of a manager among this user's state.
    fn open(manager: &str, given: Option<&str>) -> Result<Self, String> {
        let place = Place::parse(manager).map_err(|why| format!("--manager {why}"))?;
        let login = login(given, "--login")?;
        Ok(Self { line: Line::to(place), login: format!("Bearer {}", login.trim()) })
    }

    async fn ask(&mut self, question: Question) -> Result<Reply, String> {
        let question = question.with(header::AUTHORIZATION, &self.login);
        let reply = self.line.ask(question, BOUNDS).await.map_err(|error: AskError| error.to_string())?;
        match reply.status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(reply),
            other => Err(format!("the manager answers {other}: {}", reply.line())),
        }
    }
}

/// A manager's login: the one given, else that of the first manager among this user's state. `flag` is how it is given.
pub(super) fn login(given: Option<&str>, flag: &str) -> Result<String, String> {
    let file = home::first("manager").join("admin.token");
    match given {
        Some(given) => Ok(given.to_owned()),
        None => std::fs::read_to_string(&file).map_err(|_| {
            format!(
                "{flag} TOKEN is needed: the one in the page's address that the manager printed, or in {}",
                file.display()
            )
        }),
    }
}

/// A bar for each file, over all its copies.
struct Bars {
    all: MultiProgress,
    bars: Vec<(String, ProgressBar)>,
}

impl Bars {
    fn new(files: &[String]) -> Self {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{msg:40!} {wide_bar} {bytes:>10} of {total_bytes:<10} {eta:>4}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |file: &String| {
            let bar = all.add(ProgressBar::new(0).with_style(style.clone()).with_message(plain(file)));
            (file.clone(), bar)
        };
        let bars = files.iter().map(bar).collect();
        Self { all, bars }
    }

    fn show(&self, progress: &Progress) {
        for (file, bar) in &self.bars {
            let copies = progress.copies.iter().filter(|copy| copy.at.path == *file);
            let (got, total) = copies
                .fold((0, 0), |(got, total), copy| (got + copy.at.got, total + copy.at.total.unwrap_or(copy.at.got)));
            bar.set_length(total.max(1));
            bar.set_position(got);
        }
    }

    fn end(&self) {
        for (_, bar) in &self.bars {
            bar.finish();
        }
        // The bars were on the terminal only; what follows is for everybody.
        let _ = self.all.clear();
    }
}

/// A path of the backend, of a path or of a URL.
fn path_of(file: &str) -> String {
    let path = file.split_once("://").map_or(file, |(_, rest)| rest.find('/').map_or("/", |at| rest.split_at(at).1));
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

const BOUNDS: Bounds = Bounds { time: Duration::from_secs(10), bytes: 16 << 20 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_path_or_by_url() {
        assert_eq!(path_of("/a/b?c"), "/a/b?c");
        assert_eq!(path_of("big.iso"), "/big.iso");
        assert_eq!(path_of("http://manager:5000/big.iso"), "/big.iso");
        assert_eq!(path_of("https://origin"), "/");
    }
}
