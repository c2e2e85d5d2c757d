//! A running lab: brings a scenario up, changes it, and takes everything down again, however it ends.
//!
//! Order up: claim the name (sweeping what a crash left), find every program, make namespaces and devices, start the router,
//! check that nothing leads out, start programs stage by stage. Order down: programs by pid, whatever else is in the
//! namespaces, the router with its devices, the names, the folder. `Drop` is the way down, so an error half-way up leaves nothing.
//! Where there is no way down, after kill -9, programs end with their [`Family`].

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    config::Config,
    error::{Doing, Error},
    family::Family,
    measure::{Recursion, STUB_ATTEMPTS, STUB_TIMEOUT, ask, fetch_locally},
    netns::{self, Namespace},
    programs::{self, LOG, Program, Ready},
    router::{Access, Change, Link, Report, Router, Wan, Watch, Weather},
    scenario::{Host, Scenario},
    state::{self, State},
    status::{HostStatus, Status},
};

/// Set when the lab should end; shared with whoever hears Ctrl-C.
pub type Stop = Arc<AtomicBool>;

/// A running internet. Dropping it ends and removes everything it started.
pub struct Lab {
    scenario: Scenario,
    config: Config,
    namespaces: Vec<Namespace>,
    running: Mutex<Vec<Option<Child>>>,
    /// What all programs are of.
    family: Option<Family>,
    router: Option<Router>,
    stop: Stop,
    // Last: the name is free again only when all else is gone.
    state: State,
}

impl Lab {
    /// Brings a scenario up; returns when every program answers. An error, or `stop`, leaves nothing behind.
    pub fn up(scenario: Scenario, config: &Config, stop: &Stop) -> Result<Self, Error> {
        netns::check_privilege()?;
        state::sweep_stale()?;
        let state = State::claim(&scenario.name)?;
        let programs = find_programs(&scenario, &state, config)?;
        state.describe(&scenario.name)?;
        let mut lab = Self {
            running: Mutex::new(scenario.hosts.iter().map(|_| None).collect()),
            namespaces: Vec::new(),
            family: Some(Family::create(config.program.as_deref())?),
            router: None,
            config: config.clone(),
            stop: Arc::clone(stop),
            scenario,
            state,
        };
        lab.connect()?;
        lab.start_all(&programs)?;
        Ok(lab)
    }

    /// What runs here.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Runs `work` on a thread inside a host: its sockets are that host's.
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.namespace(host)?.within(work)
    }

    /// Runs a program inside a host to its end.
    pub fn run(&self, host: &str, command: &[&str]) -> Result<Output, Error> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| Error::Refused { message: "no command".into() })?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(host, &mut command)?;
        child.wait_with_output().doing(|| format!("wait for {program}"))
    }

    /// Loads a page in a host's browser and keeps a picture of it. Returns the page as its scripts left it; an error if that took
    /// longer than `patience`.
    pub fn browse(&self, host: &str, url: &str, picture: &Path, patience: Duration) -> Result<String, Error> {
        let folder = self.folder(host)?;
        let (page, errors) = (folder.join("page.html"), folder.join(LOG));
        let to = |path: &Path| fs::File::create(path).doing(|| format!("write {}", path.display()));
        let mut command = programs::browser_command(self.scenario.host(host)?, &folder, url, picture)?;
        command.stdin(Stdio::null()).stdout(to(&page)?).stderr(to(&errors)?).process_group(0);
        let mut child = self.spawn(host, &mut command)?;
        let deadline = Instant::now() + patience;
        loop {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return fs::read_to_string(&page).doing(|| format!("read {}", page.display()));
            }
            if self.check_stop().is_err() || Instant::now() > deadline {
                let _ = child.kill();
                // Its helpers are in the host too, where nothing else of a client runs.
                drop(netns::empty(slice::from_ref(self.namespace(host)?)));
                let _ = child.wait();
                self.check_stop()?;
                return Err(Error::Refused { message: format!("host `{host}`: no page at {url} within {patience:?}") });
            }
            sleep(POLL);
        }
    }

    /// Changes the wide area; in force when this returns.
    pub fn change(&self, change: Change) {
        if let Some(router) = &self.router {
            router.change(change);
        }
    }

    /// What the router has done so far.
    pub fn report(&self) -> Report {
        self.router.as_ref().map(Router::report).unwrap_or_default()
    }

    /// What the router noted of DNS so far.
    pub(crate) fn watch(&self) -> Watch {
        self.router.as_ref().map(Router::watch).unwrap_or_default()
    }

    /// The folder of a host: its program's configuration, its log, and what it writes.
    pub fn folder(&self, host: &str) -> Result<PathBuf, Error> {
        self.scenario.host(host)?;
        self.state.host(host)
    }

    /// What a node says of itself on its admin socket, as `atoll status --json` prints it, or `None` if it says nothing. Asked
    /// without that program: one per node and look would be in the way of what is looked at.
    pub fn node_status(&self, host: &str) -> Option<serde_json::Value> {
        let socket = self.folder(host).ok()?.join("state/admin.sock");
        let answer = fetch_locally(&socket, "/status", STATUS_PATIENCE, LONGEST_STATUS).ok()?;
        serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200)
    }

    /// Where the control socket listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state.socket()
    }

    /// The bounds it runs under.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether somebody asked it to end.
    pub(crate) fn stopping(&self) -> &Stop {
        &self.stop
    }

    /// Signals a host's program. SIGKILL ends everything in the host, as if its power failed; SIGKILL and SIGTERM wait until the
    /// program is gone.
    pub fn kill(&self, host: &str, signal: Signal) -> Result<(), Error> {
        let index = self.scenario.host(host)?.id.index();
        if let Some(Ok(pid)) = self.running()[index].as_ref().map(|child| i32::try_from(child.id())) {
            // Not waited for yet, so the pid is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        match signal {
            Signal::SIGKILL => drop(netns::empty(&self.namespaces[index..=index])),
            Signal::SIGTERM => {}
            _ => return Ok(()),
        }
        let deadline = Instant::now() + self.config.start_deadline;
        loop {
            let mut running = self.running();
            let slot = &mut running[index];
            if slot.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_)) | Err(_))) {
                *slot = None;
                return Ok(());
            }
            drop(running);
            if Instant::now() > deadline {
                return Err(Error::Refused { message: format!("host `{host}` did not end after {signal}") });
            }
            sleep(POLL);
        }
    }

    /// Starts a killed host's program again, with its folder as it was, and waits until it answers.
    pub fn start(&self, host: &str) -> Result<(), Error> {
        self.start_together(&[self.scenario.host(host)?])
    }

    /// The same of several hosts at once.
    pub(crate) fn start_together(&self, hosts: &[&Host]) -> Result<(), Error> {
        let mut programs = Vec::with_capacity(hosts.len());
        for host in hosts {
            if self.running()[host.id.index()].as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
                return Err(Error::Refused { message: format!("host `{}` runs already", host.name) });
            }
            let program = programs::of(&self.scenario, host, &self.state.host(&host.name)?, &self.config)?;
            let nothing = || Error::Refused { message: format!("host `{}` has no program", host.name) };
            programs.push(program.ok_or_else(nothing)?);
        }
        hosts.iter().zip(&programs).try_for_each(|(host, program)| self.launch(host, program))?;
        hosts.iter().zip(&programs).try_for_each(|(host, program)| self.await_ready(host, program))
    }

    /// How it all is.
    pub fn status(&self) -> Status {
        let pids = netns::processes(&self.namespaces);
        let mut running = self.running();
        let hosts = self.scenario.hosts.iter().map(|host| {
            let index = host.id.index();
            let alive = running[index].as_mut().map(|child| matches!(child.try_wait(), Ok(None)));
            HostStatus {
                name: host.name.clone(),
                role: host.role_name().into(),
                place: host.place.clone(),
                v4: host.id.v4(),
                v6: host.id.v6(),
                namespace: self.namespaces[index].name().into(),
                alive,
                pids: pids[index].iter().map(|pid| pid.as_raw()).collect(),
            }
        });
        Status {
            lab: self.scenario.name.clone(),
            pid: std::process::id(),
            init: self.family.as_ref().map_or(0, Family::first),
            hosts: hosts.collect(),
            wan: self.report(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Option<Child>>> {
        // A panic elsewhere leaves the list whole: each entry is set in one step.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program in a host, with the host's resolver.
    fn spawn(&self, host: &str, command: &mut Command) -> Result<Child, Error> {
        let family = self.family.as_ref().ok_or(Error::Interrupted)?;
        self.namespace(host)?.spawn(command, &self.state.host(host)?.join(RESOLV_CONF), family)
    }

    fn namespace(&self, host: &str) -> Result<&Namespace, Error> {
        Ok(&self.namespaces[self.scenario.host(host)?.id.index()])
    }

    fn connect(&mut self) -> Result<(), Error> {
        let mut devices = Vec::with_capacity(self.scenario.hosts.len());
        for host in &self.scenario.hosts {
            self.check_stop()?;
            let namespace = Namespace::create(&self.scenario.name, &host.name)?;
            self.namespaces.push(namespace);
            devices.push(self.namespaces[host.id.index()].connect(host.id)?);
            self.write_resolv_conf(host)?;
        }
        for host in &self.scenario.hosts {
            self.namespaces[host.id.index()].check_closed(&host.name)?;
        }
        let router = Router::start(devices, self.wan(), self.config.realtime);
        self.router = Some(router.doing(|| "start the router".into())?);
        Ok(())
    }

    fn wan(&self) -> Wan {
        let scenario = &self.scenario;
        let access = |host: &Host| {
            let queue = host.queue.unwrap_or(self.config.queue);
            Access { up: Link::new(host.up, queue), down: Link::new(host.down, queue) }
        };
        let weather = Weather { most_under_way: self.config.most_under_way, ..scenario.weather.clone() };
        let one_way = |from: usize, to: usize| scenario.one_way(scenario.hosts[from].id, scenario.hosts[to].id);
        Wan::new(scenario.hosts.iter().map(access).collect(), one_way, weather, scenario.seed)
    }

    fn write_resolv_conf(&self, host: &Host) -> Result<(), Error> {
        let text = match host.resolver.map(|id| &self.scenario.hosts[id.index()]) {
            Some(resolver) => {
                let (seconds, address) = (STUB_TIMEOUT.as_secs(), resolver.id.v4());
                format!("nameserver {address}\noptions timeout:{seconds} attempts:{STUB_ATTEMPTS}\n")
            }
            None => String::new(),
        };
        let path = self.state.host(&host.name)?.join(RESOLV_CONF);
        fs::write(&path, text).doing(|| format!("write {}", path.display()))
    }

    fn start_all(&self, programs: &[Option<Program>]) -> Result<(), Error> {
        let of = |stage| {
            let pairs = self.scenario.hosts.iter().zip(programs);
            pairs.filter_map(move |(host, program)| Some((host, program.as_ref().filter(|p| p.stage == stage)?)))
        };
        for stage in 0..STAGES {
            for (host, program) in of(stage) {
                self.check_stop()?;
                program.write_files(&self.state.host(&host.name)?)?;
                self.launch(host, program)?;
            }
            for (host, program) in of(stage) {
                self.await_ready(host, program)?;
            }
        }
        Ok(())
    }

    fn launch(&self, host: &Host, program: &Program) -> Result<(), Error> {
        let folder = self.state.host(&host.name)?;
        let mut command = program.command(&folder)?;
        let child = self.spawn(&host.name, &mut command)?;
        self.running()[host.id.index()] = Some(child);
        Ok(())
    }

    /// Waits for one host as long as one may take: its time begins when those before it are there, so that many may start together.
    fn await_ready(&self, host: &Host, program: &Program) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.start_deadline;
        let failed = |what: String| {
            let log = self
                .state
                .host(&host.name)
                .map(|folder| folder.join(LOG))
                .and_then(|path| fs::read_to_string(&path).doing(|| "read the log".into()));
            let log = log.ok().and_then(|log| log.lines().rev().find(|line| !line.trim().is_empty()).map(String::from));
            Error::Program { host: host.name.clone(), program: program.name.into(), what, log }
        };
        loop {
            self.check_stop()?;
            let ended = match self.running()[host.id.index()].as_mut().map(Child::try_wait) {
                Some(Ok(None)) => None,
                Some(Ok(Some(status))) => Some(status.to_string()),
                Some(Err(error)) => Some(error.to_string()),
                None => Some("nobody knows why".into()),
            };
            if let Some(how) = ended {
                return Err(failed(format!("ended at once ({how})")));
            }
            if self.namespaces[host.id.index()].within(|| answers(host, program.ready))? {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(failed(format!("did not answer within {:?}", self.config.start_deadline)));
            }
            sleep(POLL);
        }
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // At once: what they would write on their way out is removed with their folders.
        let mut running: Vec<Child> = self.running().iter_mut().filter_map(Option::take).collect();
        running.iter_mut().for_each(|child| drop(child.kill()));
        let left = netns::empty(&self.namespaces);
        running.iter_mut().for_each(|child| drop(child.wait()));
        self.family = None;
        self.router = None;
        if left.is_empty() {
            // What would not end can be found by its namespace alone, so by `lab down` later.
            self.namespaces.iter().for_each(Namespace::remove);
        }
    }
}

fn find_programs(scenario: &Scenario, state: &State, config: &Config) -> Result<Vec<Option<Program>>, Error> {
    let of = |host: &Host| programs::of(scenario, host, &state.host(&host.name)?, config);
    scenario.hosts.iter().map(of).collect()
}

/// Asked inside the host itself.
fn answers(host: &Host, ready: Ready) -> bool {
    let at = |port| SocketAddr::new(host.id.v4().into(), port);
    let patience = Duration::from_millis(500);
    match ready {
        Ready::Dns => ask(at(53), "lab.", RecordType::SOA, Recursion::NotWanted, patience).is_ok(),
        Ready::Http => TcpStream::connect_timeout(&at(80), patience).is_ok(),
    }
}

/// As `atoll status` waits.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_STATUS: usize = 4 << 20;
const POLL: Duration = Duration::from_millis(20);
const RESOLV_CONF: &str = "resolv.conf";
const STAGES: u8 = 3;
