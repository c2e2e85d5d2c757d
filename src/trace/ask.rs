//! The asking itself, by the node on this machine: DNS as its own redirector would answer, one request, and the steps of whoever
//! answered it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use atoll_overlay::NodeInfo;
use atoll_proxy::{OriginUrl, Traced, Zone};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::Report;
use crate::warm::{browsers_codings, is_own, secure_own};

/// What is to be traced.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The URL at its origin.
    pub url: String,
    /// The node that is asked; as DNS leads, if not said.
    pub node: Option<String>,
    /// For whom DNS is asked.
    pub from: IpAddr,
}

/// Why DNS answers a name as it does, and the addresses it answers with.
pub(crate) type Led = (Vec<String>, Vec<IpAddr>);

/// What the node here knows and can.
pub(crate) struct Here<'a, D> {
    pub(crate) zone: &'a str,
    /// Hosts that are served under their own names; `*` is all.
    pub(crate) sites: Vec<String>,
    /// This node first, then those it knows.
    pub(crate) nodes: Vec<NodeInfo>,
    /// Why DNS answers a name as it does, and with what.
    pub(crate) dns: D,
    /// A pass for the node that is asked.
    pub(crate) pass: Option<String>,
}

/// Follows one request. The text of an error says what broke before anything could be told.
pub(crate) async fn ask<D: Fn(&str) -> Option<Led>>(here: Here<'_, D>, wanted: Wanted) -> Result<Report, String> {
    let begun = Instant::now();
    let url = OriginUrl::parse(&wanted.url).map_err(|error| error.to_string())?;
    let own = is_own(&here.sites, &url);
    if let Some(why) = secure_own(&here.sites, &url) {
        return Err(why);
    }
    let zone = Zone::new(here.zone).map_err(|error| error.to_string())?;
    let name = if own { Ok(url.authority()) } else { zone.host(&url) };
    let mut report = Report { url: url.to_string(), ..Report::default() };
    let mut led = Vec::new();
    match &name {
        Ok(name) if !own => {
            report.name.clone_from(name);
            match (here.dns)(name) {
                Some((why, chosen)) => {
                    why.into_iter().for_each(|line| report.add(begun.elapsed(), "dns", "why", line));
                    let chosen_text = chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    report.add(begun.elapsed(), "dns", "answer", chosen_text);
                    led = chosen;
                }
                None => report.add(
                    begun.elapsed(),
                    "dns",
                    "answer",
                    "this node answers no DNS: ask one that does where it leads (--socket)",
                ),
            }
        }
        Ok(name) => report.add(begun.elapsed(), "dns", "answer", format!("{name} is served under its own name")),
        Err(error) => report.add(begun.elapsed(), "dns", "answer", format!("no name says this URL: {error}")),
    }
    let address = chosen(&here.nodes, wanted.node.as_deref(), &led)?;
    report.address = address.to_string();
    let (host, target) = match name {
        Ok(name) => (name, url.path().to_owned()),
        Err(_) => (address.to_string(), url.manager_path()),
    };
    let asked = Asked { host, target, codings: browsers_codings(&url), pass: here.pass };
    if asked.pass.is_none() {
        report.add(begun.elapsed(), "client", "pass", "this node has no key to sign with: the other tells nothing");
    }
    match timeout(PATIENCE, asked.follow(begun, address, &mut report)).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => report.add(begun.elapsed(), "client", "failed", why),
        Err(_) => report.add(begun.elapsed(), "client", "failed", format!("not done within {PATIENCE:?}")),
    }
    report.steps.sort_by_key(|step| step.at);
    Ok(report)
}

/// Where to ask: as said, else where DNS leads, else the first node known that serves HTTP.
fn chosen(nodes: &[NodeInfo], said: Option<&str>, led: &[IpAddr]) -> Result<SocketAddr, String> {
    let port_at = |address: IpAddr| {
        let there = nodes.iter().find(|node| addresses(node).any(|one| one == address));
        SocketAddr::from((address, there.and_then(|node| node.http_ports.first().copied()).unwrap_or(80)))
    };
    let place = |node: &NodeInfo| {
        let port = *node.http_ports.first()?;
        addresses(node).next().map(|address| SocketAddr::from((address, port)))
    };
    match said {
        None => led
            .first()
            .map(|address| port_at(*address))
            .or_else(|| nodes.iter().find_map(place))
            .ok_or_else(|| "no node that serves HTTP is known here: name one with --node".to_owned()),
        Some(said) => {
            if let Ok(socket) = said.parse() {
                return Ok(socket);
            }
            if let Ok(address) = said.parse() {
                return Ok(port_at(address));
            }
            let mut fits = nodes.iter().filter(|node| !said.is_empty() && node.id.to_string().starts_with(said));
            match (fits.next(), fits.next()) {
                (Some(node), None) => place(node).ok_or_else(|| format!("node {} serves no HTTP", node.id)),
                (Some(_), Some(_)) => Err(format!("several nodes have an id that begins with {said}")),
                (None, _) => Err(format!("{said} is no address, and no node known here has such an id")),
            }
        }
    }
}

fn addresses(node: &NodeInfo) -> impl Iterator<Item = IpAddr> {
    let v4 = node.v4.iter().copied().map(IpAddr::from);
    v4.chain(node.v6.iter().copied().map(IpAddr::from))
}

/// The request that is followed.
struct Asked {
    host: String,
    target: String,
    /// What browsers take of it.
    codings: &'static str,
    pass: Option<String>,
}

impl Asked {
    async fn follow(&self, begun: Instant, address: SocketAddr, report: &mut Report) -> Result<(), String> {
        let mut sender = dial(address).await?;
        report.add(begun.elapsed(), "client", "connect", format!("connected to {address}"));
        let sent = begun.elapsed();
        report.add(sent, "client", "request", format!("GET {}, Host: {}", self.target, self.host));
        let response = sender.send_request(self.request(&self.target)?).await.map_err(|error| error.to_string())?;
        report.status = response.status().as_u16();
        report.add(begun.elapsed(), "client", "head", response.status().to_string());
        let mut body = response.into_body();
        let mut hasher = blake3::Hasher::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the body broke off after {} bytes: {error}", report.bytes))?;
            if let Ok(data) = frame.into_data() {
                hasher.update(&data);
                report.bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
            }
        }
        report.blake3 = hasher.finalize().to_string();
        report.add(begun.elapsed(), "client", "body", format!("{} bytes", report.bytes));
        if self.pass.is_none() {
            return Ok(());
        }
        let told = self.steps(address).await?;
        report.node = told.node;
        for step in told.steps {
            report.add(sent + Duration::from_micros(step.at), "node", &step.stage, step.what);
        }
        Ok(())
    }

    /// The node's own steps, once its fetch has ended; if it goes on and on, those so far.
    async fn steps(&self, address: SocketAddr) -> Result<Traced, String> {
        let until = Instant::now() + SETTLED;
        loop {
            let mut sender = dial(address).await?;
            let response = sender.send_request(self.request(TRACES)?).await.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!(
                    "{address} tells nothing: it does not believe this node, or is of another network"
                ));
            }
            let body = Limited::new(response.into_body(), STEPS_LIMIT).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            let told: Traced = serde_json::from_slice(&body).map_err(|_| {
                format!("{address} tells nothing: it does not believe this node, or is of another network")
            })?;
            if !told.running || Instant::now() >= until {
                return Ok(told);
            }
            sleep(LOOK).await;
        }
    }

    fn request(&self, target: &str) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::get(target).header(header::HOST, &self.host);
        request = request.header(header::ACCEPT_ENCODING, self.codings);
        if let Some(pass) = &self.pass {
            request = request.header("atoll-trace", pass);
        }
        request.body(Empty::new()).map_err(|error| error.to_string())
    }
}

/// A connection that ends with its task once the sender is gone.
async fn dial(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
    // Costs a delay at worst.
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // How it ends shows in the answer.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Where a node's steps are read.
const TRACES: &str = "/.well-known/atoll/trace";

/// Bytes of a node's steps.
const STEPS_LIMIT: usize = 1 << 20;

/// For the whole trace.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the node's fetch may go on after its last byte came here: it stores and announces.
const SETTLED: Duration = Duration::from_secs(3);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use atoll_overlay::{Key, NodeId, Roles};

    use super::*;

    fn node(name: &str, address: &str, ports: &[u16]) -> NodeInfo {
        NodeInfo {
            v4: vec![address.parse().unwrap()],
            http_ports: ports.to_vec(),
            ..NodeInfo::new(NodeId::from(Key::of(name.as_bytes())), Roles::PROXY)
        }
    }

    #[test]
    fn the_node_asked_is_the_one_said_else_where_dns_leads_else_any() {
        let nodes = [node("a", "198.18.0.1", &[]), node("b", "198.18.0.2", &[8080])];
        let led = ["198.18.0.2".parse().unwrap()];
        let at = |said, led: &[IpAddr]| chosen(&nodes, said, led).map(|address| address.to_string());
        assert_eq!(at(None, &led).as_deref(), Ok("198.18.0.2:8080"));
        assert_eq!(at(None, &[]).as_deref(), Ok("198.18.0.2:8080"));
        assert_eq!(at(Some("198.18.0.9"), &led).as_deref(), Ok("198.18.0.9:80"));
        assert_eq!(at(Some("198.18.0.9:81"), &led).as_deref(), Ok("198.18.0.9:81"));
        let id = nodes[1].id.to_string();
        assert_eq!(at(Some(&id[..12]), &[]).as_deref(), Ok("198.18.0.2:8080"));
        let mute = nodes[0].id.to_string();
        assert!(at(Some(&mute), &[]).is_err());
        assert!(at(Some("zzz"), &[]).is_err() && at(Some(""), &[]).is_err());
    }
}
