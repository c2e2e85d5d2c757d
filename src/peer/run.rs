//! `atoll peer`: from the command line to a running peer, and its end.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    beat::{Heart, Stopped},
    join::{Applicant, JoinError, Joined, join},
    kept::Kept,
    lender::{Lender, Own, Session},
};
use crate::{
    Node,
    cli::PeerArgs,
    front::{
        amount,
        ask::Place,
        begin::{Failed, begin, failed, listen, time},
        home,
        listen::Front,
        meter::{Lent, Meter},
        node::Behind,
        service::Service,
        site::Site,
        stop::{after, warm_close},
        tls::Tls,
    },
    manager::{membership::node_key, token::Token, wire::Welcome},
    node::STOP_LIMIT,
    out::{complain, say},
    signals::Signals,
    state::State,
};

/// Runs a peer until it is ended, or its manager ends it.
pub async fn run(args: PeerArgs) -> ExitCode {
    begin(Asked::read(args), start).await
}

/// The command line, understood.
struct Asked {
    manager: Place,
    token: Option<Token>,
    advertise: Option<Place>,
    lent: Lent,
    grace: Duration,
    args: PeerArgs,
}

impl Asked {
    fn read(args: PeerArgs) -> Result<Self, String> {
        let token = args.token.as_deref().map(Token::parse).transpose().map_err(|why| format!("--token: {why}"))?;
        let manager = match (&args.manager, token.as_ref().and_then(|token| token.manager.clone())) {
            (Some(manager), _) => Place::parse(manager).map_err(|why| format!("--manager {why}"))?,
            (None, Some(manager)) => manager,
            (None, None) => return Err("--manager URL is needed: this token does not name one".to_owned()),
        };
        let amount = |name: &str, text: &Option<String>, read: fn(&str) -> Option<u64>, example: &str| {
            let read =
                |text: &String| read(text).ok_or_else(|| format!("--{name} {text:?} is none, such as {example}"));
            text.as_ref().map(read).transpose()
        };
        Ok(Self {
            manager,
            token,
            advertise: args
                .advertise
                .as_deref()
                .map(Place::parse)
                .transpose()
                .map_err(|why| format!("--advertise {why}"))?,
            lent: Lent {
                rate: amount("rate", &args.rate, amount::rate, "50mbit")?,
                daily: amount("daily", &args.daily, amount::size, "15GB")?,
                monthly: amount("monthly", &args.monthly, amount::size, "300GB")?,
            },
            grace: time("grace", &args.grace)?,
            args,
        })
    }
}

async fn start(mut asked: Asked) -> Result<ExitCode, Failed> {
    let state = home::open(asked.args.state.take(), "peer").map_err(failed)?;
    let mut kept = Kept::load(&state).map_err(failed)?;
    let mut signals = Signals::new().map_err(failed)?;
    let listener = listener(asked.args.listen, kept.port)?;
    let address = listener.local_addr().map_err(failed)?;
    kept.port = address.port();
    let tls = Tls::load(asked.args.certificate.as_ref(), asked.args.key.as_ref()).map_err(failed)?;
    let advertise = advertised(&asked, tls.as_ref(), address.port())?;
    let server = tls.as_ref().map(Tls::server).transpose().map_err(failed)?;
    let directory = state.directory().join("node");
    let node = node_key(&directory).map_err(Failed)?;
    let applicant = Applicant { token: asked.token.clone(), advertise, port: address.port(), node, directory };
    let (welcome, session) = tokio::select! {
        admitted = admitted(&asked, &mut kept, &applicant) => admitted?,
        () = signals.end(|| {}, || {}) => return Ok(ExitCode::SUCCESS),
    };
    kept.save(&state);
    let lender = open(&asked, &state, &kept, &welcome, address).await?;
    lender.set_session(session);
    let front = Front::serve(listener, CONNECTIONS, server, Arc::clone(&lender)).map_err(failed)?;
    say(format_args!(
        "lent to     {}\nlistens on  http://{}\nserves      {} at {}\nCtrl-C leaves well, a second one at once",
        asked.manager,
        front.address(),
        welcome.origin,
        welcome.url
    ));
    let mut heart = Heart::new(Arc::clone(&lender), state, kept, applicant);
    let wake = Notify::new();
    let drain_asked = lender.drain_asked();
    let mut code = ExitCode::SUCCESS;
    let (mut refused, mut at_once) = (false, false);
    tokio::select! {
        stopped = heart.run(&wake) => match stopped {
            Stopped::Drain => say("the manager asks this machine to leave"),
            Stopped::Now => at_once = true,
            Stopped::Refused(why) => {
                complain(format_args!("the manager turns this machine away: {why}"));
                code = ExitCode::FAILURE;
                refused = true;
            }
        },
        () = signals.end(|| {}, || {}) => {}
        () = drain_asked => {}
    }
    lender.draining.store(true, Ordering::Relaxed);
    let stop_asked = lender.stop_asked();
    if at_once {
        say("the manager stops this machine at once");
    } else {
        tokio::select! {
            () = leave(&asked, &lender, &mut heart, front, refused) => {}
            () = signals.end(|| {}, || {}) => say("stopped at once"),
            () = after(stop_asked) => {}
        }
    }
    heart.save();
    if timeout(STOP_LIMIT, lender.close()).await.is_err() {
        tracing::warn!(limit = ?STOP_LIMIT, "some part did not stop in time");
    }
    Ok(code)
}

/// Where clients are to be led: what the operator said, else where the certificate is good; "" leaves it to the manager.
fn advertised(asked: &Asked, tls: Option<&Tls>, port: u16) -> Result<String, Failed> {
    match (&asked.advertise, tls) {
        (Some(place), _) => Ok(place.to_string()),
        (None, None) => Ok(String::new()),
        (None, Some(tls)) => {
            let name = tls
                .name()
                .ok_or_else(|| failed("the certificate has no name of its own: say --advertise https://NAME:PORT"))?;
            Ok(format!("https://{name}:{port}"))
        }
    }
}

/// Joins; waits for a manager that is away, unless it may serve with what was said last time.
async fn admitted(asked: &Asked, kept: &mut Kept, applicant: &Applicant) -> Result<(Welcome, Option<Session>), Failed> {
    let mut pause = Duration::from_millis(500);
    loop {
        match join(&asked.manager, kept, applicant).await {
            Ok(Joined { session, welcome }) => {
                let url = welcome.url.clone();
                return Ok((welcome, Some(Session { key: session, url })));
            }
            Err(JoinError::Never(why)) => {
                return Err(Failed(format!("the manager {} turns this machine away: {why}", asked.manager)));
            }
            Err(JoinError::Later(error)) => {
                if let Some(welcome) = kept.welcome.clone() {
                    say(format_args!("the manager is away: {error}; serving what it said last time"));
                    return Ok((welcome, None));
                }
                complain(format_args!("{error}; asking again"));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Starts the node behind.
async fn open(
    asked: &Asked,
    state: &State,
    kept: &Kept,
    welcome: &Welcome,
    address: SocketAddr,
) -> Result<Arc<Lender>, Failed> {
    let site = Site::parse(&welcome.origin).map_err(failed)?.on(&welcome.place).via(&welcome.via);
    let url = Place::parse(&welcome.url).map_err(failed)?;
    let behind = Behind {
        state: state.directory(),
        site: &site,
        network: &welcome.network,
        bootstrap: welcome.bootstrap.clone(),
        overlay: (address.ip(), 0),
        url: &url,
        grace: asked.grace,
    };
    let node = Node::start(behind.config()).await.map_err(failed)?;
    let proxy = node.proxy().ok_or_else(|| failed("the node has no proxy"))?;
    let meter = Arc::new(Meter::new(&asked.lent, kept.used, welcome.private));
    meter.set_url(&welcome.url);
    Ok(Arc::new(Lender::new(
        Own { name: kept.name.clone(), weight: asked.args.weight },
        asked.manager.clone(),
        Service { proxy, site, meter },
        node,
    )))
}

/// Withdraws, finishes what runs, and hands over the last records.
async fn leave(asked: &Asked, lender: &Lender, heart: &mut Heart, front: Front, refused: bool) {
    // Once the manager knows, nobody new is led here; who was led just before still comes.
    if !refused && matches!(timeout(TELL, heart.beat()).await, Ok(Ok(_))) {
        sleep(SETTLE).await;
    }
    let wake = Notify::new();
    tokio::select! {
        _ = warm_close(front, &lender.service.meter, asked.grace) => {}
        // The manager sees how far it is, and may end it.
        () = ended(heart, &wake), if !refused => return say("the manager stops this machine at once"),
    }
    // What cannot be told by then is lost with the process. The first may find a line that was cut in the middle.
    for _ in 0..2 {
        if refused || matches!(timeout(TELL, heart.beat()).await, Ok(Ok(_))) {
            break;
        }
    }
}

/// Beats on while downloads finish; ready once the manager wants an end of it.
async fn ended(heart: &mut Heart, wake: &Notify) {
    match heart.run(wake).await {
        Stopped::Now => {}
        // It has gone from the manager's list; what runs may finish.
        Stopped::Drain | Stopped::Refused(_) => std::future::pending().await,
    }
}

/// The address asked for; else the port of last time or the first free one from 5001.
fn listener(asked: Option<SocketAddr>, last: u16) -> Result<TcpListener, Failed> {
    if let Some(address) = asked {
        return listen("peer", address);
    }
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let ports = std::iter::once(last).filter(|port| *port != 0).chain(PORTS).chain([0]);
    let mut error = None;
    for port in ports {
        match Front::bind((any, port).into()) {
            Ok(listener) => return Ok(listener),
            Err(why) => error = Some(why),
        }
    }
    Err(Failed(format!(
        "the peer cannot listen on any port: {}",
        error.map_or_else(String::new, |why| why.to_string())
    )))
}

/// Where peers listen unless told.
const PORTS: std::ops::RangeInclusive<u16> = 5_001..=5_064;

/// Connections at once. `[guess]`
const CONNECTIONS: usize = 20_000;

/// For the manager to hear that the peer leaves.
const TELL: Duration = Duration::from_secs(2);

/// For clients that were led here just before.
const SETTLE: Duration = Duration::from_millis(500);
