//! `atoll manager`: from the command line to a running manager, and its end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_proxy::Used;
use http::StatusCode;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    beside::{self, First},
    desk::Shared,
    door,
    journal::{Journal, Target},
    ledger::Ledger,
    login::Login,
    membership::{self, Keys},
    office::{Furniture, Kepts, Network, Office, Rules},
    remote,
    token::{Secret, Token},
    watch,
};
use crate::{
    Node,
    cli::ManagerArgs,
    front::{
        amount,
        ask::Place,
        begin::{Failed, begin, failed, listen, time},
        home,
        listen::Front,
        meter::{Lent, Meter, unix_now},
        node::{Behind, overlay_port},
        service::Service,
        site::Site,
        stop::{after, warm_close},
        tls::Tls,
    },
    node::STOP_LIMIT,
    out::say,
    signals::Signals,
    state::{Kept, State},
};

/// Runs a manager until it is ended.
pub async fn run(args: ManagerArgs) -> ExitCode {
    begin(Asked::read(args), start).await
}

/// The command line, understood.
struct Asked {
    site: Site,
    token: Option<Token>,
    expires: Duration,
    public: Option<Place>,
    beside: Option<First>,
    rules: Rules,
    grace: Duration,
    args: ManagerArgs,
}

impl Asked {
    fn read(args: ManagerArgs) -> Result<Self, String> {
        let above = args
            .redirect_above
            .as_deref()
            .map(|text| amount::size(text).ok_or_else(|| format!("--redirect-above {text:?} is no size such as 1MB")));
        // Without a certificate of ours somebody before us has it, and only TLS comes through.
        let secure =
            args.certificate.is_none() && args.public.as_deref().is_some_and(|url| url.starts_with("https://"));
        let public = args.public.as_deref().map(|url| Place::parse(url).map_err(|why| format!("--public {why}")));
        let beside = args.beside.as_deref().map(|first| {
            let login = remote::login(args.beside_login.as_deref(), "--beside-login")?;
            let place = Place::parse(first).map_err(|why| format!("--beside {why}"))?;
            Ok::<_, String>(First { place, login: Secret::of_login(&login) })
        });
        Ok(Self {
            site: Site::parse(&args.origin)?,
            token: args.token.as_deref().map(Token::parse).transpose().map_err(|why| format!("--token: {why}"))?,
            expires: time("expires", &args.expires)?,
            grace: time("grace", &args.grace)?,
            public: public.transpose()?,
            beside: beside.transpose()?,
            rules: Rules {
                redirect_above: above.transpose()?.unwrap_or(0),
                redirect_status: match args.redirect_status {
                    307 => StatusCode::TEMPORARY_REDIRECT,
                    302 => StatusCode::FOUND,
                    other => return Err(format!("--redirect-status {other}: 302 or 307")),
                },
                private: args.private,
                secure,
            },
            args,
        })
    }
}

async fn start(mut asked: Asked) -> Result<ExitCode, Failed> {
    let state = home::open(asked.args.state.take(), "manager").map_err(failed)?;
    let (mut kept, fresh) = load(&state)?;
    if let Some(first) = &asked.beside {
        beside::settle(first, &mut kept, fresh).await.map_err(Failed)?;
    }
    let listener = listen("manager", asked.args.listen)?;
    let tls = Tls::load(asked.args.certificate.as_ref(), asked.args.key.as_ref()).map_err(failed)?;
    let server = tls.as_ref().map(Tls::server).transpose().map_err(failed)?;
    let mut signals = Signals::new().map_err(failed)?;
    let (login, text) = Login::load(&state).map_err(failed)?;
    let door = if door::is_needed(&asked.site.dialled()) {
        Some(Front::bind((asked.args.listen.ip(), 0).into()).map_err(failed)?)
    } else {
        None
    };
    let port = door.as_ref().map(TcpListener::local_addr).transpose().map_err(failed)?.map(|address| address.port());
    let office = open(&asked, state, kept, login, (&listener, port)).await?;
    let mut carrying = JoinSet::new();
    if let Some(door) = door {
        carrying.spawn(door::serve(door, Arc::clone(&office)));
    }
    let front = Front::serve(listener, CONNECTIONS, server, Arc::clone(&office)).map_err(failed)?;
    greet(&asked, &office, &front, &text);
    tokio::spawn(probe_origin(Arc::clone(&office)));
    let watching = tokio::spawn(watch::watch(Arc::clone(&office)));
    let renewing = tokio::spawn(renew(Arc::clone(&office), asked.beside.clone()));
    let reopen = || {
        if let Err(error) = office.journal.reopen() {
            tracing::warn!(%error, "the log of requests was not reopened");
        }
    };
    let drain_asked = office.drain_asked();
    tokio::select! {
        () = signals.end(reopen, || {}) => {}
        () = office.leave.notified() => {}
        () = drain_asked => {}
    }
    office.draining.store(true, Ordering::Relaxed);
    tokio::select! {
        _ = warm_close(front, &office.service.meter, asked.grace) => {}
        () = signals.end(reopen, || {}) => say("stopped at once"),
        () = after(office.stop.notified()) => {}
        () = after(office.stop_asked()) => {}
    }
    watching.abort();
    renewing.abort();
    watch::collect(&office);
    let closing = Arc::clone(&office);
    // What cannot be waited for is lost with the process.
    let _ = tokio::task::spawn_blocking(move || closing.journal.finish()).await;
    if timeout(STOP_LIMIT, office.close()).await.is_err() {
        tracing::warn!(limit = ?STOP_LIMIT, "some part did not stop in time");
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the office: the node behind it runs when this returns.
async fn open(
    asked: &Asked,
    state: State,
    mut kept: Kepts,
    login: Login,
    (listener, door): (&TcpListener, Option<u16>),
) -> Result<Shared, Failed> {
    let address = listener.local_addr().map_err(failed)?;
    let own = asked.public.clone().unwrap_or_else(|| Place::of(reachable(address)));
    // Elsewhere in the network its URL may mean something else.
    let place = if door::is_needed(&asked.site.dialled()) { own.host() } else { "" };
    let site = asked.site.clone().on(place);
    let journal = match asked.args.log.as_deref() {
        Some(path) if path == Path::new("-") => Target::Output,
        Some(path) if path == Path::new("none") => Target::Memory,
        Some(path) => Target::File(path.to_owned()),
        None => Target::File(state.directory().join("requests.log")),
    };
    let journal = Journal::open(&journal)
        .map_err(|error| Failed(format!("the log of requests cannot be opened ({journal:?}): {error}")))?;
    let behind = |port| Behind {
        state: state.directory(),
        site: &site,
        network: &kept.network.name,
        bootstrap: kept.network.seeds.clone(),
        overlay: (listener_ip(address), port),
        url: &own,
        grace: asked.grace,
    };
    let directory = state.directory().join("node");
    let key = membership::node_key(&directory).map_err(Failed)?;
    let serial = membership::fresh_serial().map_err(Failed)?;
    let (certificate, _) = kept.keys.admit(&key, serial).map_err(Failed)?;
    membership::put_certificate(&directory, &certificate).map_err(Failed)?;
    // The port of last time, so that peers find the network again; any other if somebody has it now.
    let node = match Node::start(behind(kept.network.port).config()).await {
        Err(_) if kept.network.port != 0 => Node::start(behind(0).config()).await,
        started => started,
    };
    let node = node.map_err(failed)?;
    let port = overlay_port(&node.status()).ok_or_else(|| failed("the overlay listens nowhere"))?;
    kept.network.port = port;
    let meter = Arc::new(Meter::new(&Lent::default(), Used::default(), asked.rules.private));
    meter.set_url(&own.to_string());
    let office = Office::new(Furniture {
        service: Service { proxy: node.proxy().ok_or_else(|| failed("the node has no proxy"))?, site, meter },
        node,
        journal,
        login,
        rules: asked.rules.clone(),
        own,
        overlay_port: port,
        door,
        state,
        kept,
        member: (key, serial),
    });
    office.save();
    Ok(Arc::new(office))
}

/// What was kept, or a new network; true if it is new.
fn load(state: &State) -> Result<(Kepts, bool), Failed> {
    let Some(bytes) = state.load(Kept::Manager).map_err(failed)? else {
        let keys = Keys::make().map_err(failed)?;
        let kept = Kepts { network: Network::make(), keys, ledger: Ledger::default(), beside: BTreeMap::new() };
        return Ok((kept, true));
    };
    let path = state.path(Kept::Manager);
    let kept = serde_json::from_slice(&bytes).map_err(|error| {
        Failed(format!("{} cannot be read: {error}; move it away to begin a new network", path.display()))
    })?;
    Ok((kept, false))
}

/// Tells the operator where everything is. Secrets go to the terminal, not to the log.
fn greet(asked: &Asked, office: &Office, front: &Front, login: &str) {
    let expires = unix_now().saturating_add(asked.expires.as_secs());
    let token = match &asked.token {
        Some(token) if office.ledger().knows(token) => token.clone(),
        Some(token) => {
            office.ledger().grant(token, asked.args.uses, expires);
            office.save();
            token.clone()
        }
        None => office.make_token(asked.args.uses, expires),
    };
    say(format_args!("manager of  {}\nlistens on  http://{}", office.service.site.url(), front.address()));
    say(format_args!("downloads   {}/PATH", office.own));
    say(format_args!("page        {}/_atoll/#token={login}", office.own));
    say(format_args!("log         curl -u :{login} {}/_log", office.own));
    say(format_args!(
        "lend one    atoll peer --manager {} --token {}\n            (admits {} machines within {})",
        office.own,
        token.reveal(),
        asked.args.uses,
        asked.args.expires
    ));
}

/// Says so if the backend cannot be reached now; it is asked again with every miss.
async fn probe_origin(office: Shared) {
    let connected = timeout(PROBE, TcpStream::connect(office.service.site.dialled())).await;
    let why = match connected {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {PROBE:?}"),
    };
    tracing::warn!(
        origin = office.service.site.url(),
        why,
        "the backend cannot be reached now; clients get 502 until it can"
    );
}

/// Renews the own node's certificate in good time, and what the first manager has granted.
async fn renew(office: Shared, first: Option<First>) {
    loop {
        sleep(membership::RENEWED).await;
        if let Some(first) = &first {
            match beside::ask(first, Some(&office.keys())).await {
                Ok((_, keys)) => office.take_keys(keys),
                Err(why) => tracing::warn!(manager = %first.place, "the first manager has granted nothing: {why}"),
            }
        }
        if let Err(why) = office.renew() {
            tracing::warn!(why, "the certificate of the own node was not renewed");
        }
    }
}

/// Where others reach a listener on all addresses: at the address this machine talks to the world from, if it has one.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    // Connecting a datagram socket sends nothing; it only asks the system for its route.
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    let ip = route.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |route| route.ip());
    SocketAddr::new(ip, address.port())
}

/// The overlay listens where the front does.
const fn listener_ip(address: SocketAddr) -> IpAddr {
    address.ip()
}

/// For the backend to take a connection at start.
const PROBE: Duration = Duration::from_secs(5);

/// Connections of clients and peers at once. `[guess]`
const CONNECTIONS: usize = 65_536;
