//! Origins that follow a script, and clients that show every byte. The network in memory is [`crate::net`]'s.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use atoll_overlay::{Alone, Index, Key, NodeId, NodeInfo, Roles};
use atoll_proxy::{Any, Config, Origins, Proxy, Site, SiteOrigin};
use atoll_store::Store;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};

pub(crate) use crate::net::{Net, Node, proof_of};

/// Longer than anything here takes, on a machine that does much else.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Waits for what must happen.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it took too long")
}

/// Waits until a condition holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Where connections are refused: nothing listens there, and nothing can as long as the socket is held.
pub(crate) fn refusing() -> (SocketAddr, TcpSocket) {
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (taken.local_addr().unwrap(), taken)
}

/// One thing an origin does.
#[derive(Clone)]
pub(crate) enum Do {
    /// Sends bytes.
    Send(Bytes),
    /// Waits for a permit.
    Wait(Arc<Semaphore>),
    /// Closes the connection.
    Close,
    /// Breaks it off: what was sent may not arrive.
    Reset,
    /// Waits for ever.
    Hang,
}

/// An origin.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    pub(crate) connections: Arc<AtomicUsize>,
}

type Script = dyn Fn(usize, &str) -> Vec<Do> + Send + Sync;

impl Origin {
    /// An origin that answers the n-th request (from 0) by its head as the script says.
    pub(crate) async fn start(script: impl Fn(usize, &str) -> Vec<Do> + Send + Sync + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), script).await
    }

    /// An origin whose answers, all with these fields and this body, wait for a permit each before their head.
    pub(crate) async fn behind(gate: &Arc<Semaphore>, fields: &'static str, body: &'static [u8]) -> Self {
        let held = Arc::clone(gate);
        Self::start(move |_, _| {
            let mut steps = ok(fields, &Bytes::from_static(body));
            steps.insert(0, Do::Wait(Arc::clone(&held)));
            steps
        })
        .await
    }

    /// One with a script, at this address.
    pub(crate) async fn start_at(
        at: SocketAddr,
        script: impl Fn(usize, &str) -> Vec<Do> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (kept, count, script) = (Arc::clone(&heads), Arc::clone(&connections), Arc::new(script) as Arc<Script>);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Self::serve(stream, Arc::clone(&kept), Arc::clone(&script)));
            }
        });
        Self { address, heads, connections }
    }

    /// An origin that always sends this body, fresh for an hour.
    pub(crate) async fn with_body(body: Bytes) -> Self {
        Self::start(move |_, _| ok("Cache-Control: max-age=3600\r\n", &body)).await
    }

    async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>, script: Arc<Script>) {
        let mut buffer = Vec::new();
        loop {
            while !buffer.windows(4).any(|four| four == b"\r\n\r\n") {
                if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                    return;
                }
            }
            let end = buffer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
            let number = {
                let mut heads = heads.lock().unwrap();
                heads.push(head.clone());
                heads.len() - 1
            };
            for step in script(number, &head) {
                match step {
                    Do::Send(bytes) => {
                        if stream.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                    Do::Wait(gate) => gate.acquire().await.unwrap().forget(),
                    Do::Close => return,
                    Do::Reset => return stream.set_zero_linger().unwrap(),
                    Do::Hang => std::future::pending().await,
                }
            }
        }
    }

    /// The heads received so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// A Coralized host for it.
    pub(crate) fn host(&self) -> String {
        format!("site.test.{}.nyud.example", self.address.port())
    }
}

/// A whole 200 answer.
pub(crate) fn ok(fields: &str, body: &Bytes) -> Vec<Do> {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    vec![Do::Send(head.into()), Do::Send(body.clone())]
}

/// Raw bytes and the end.
pub(crate) fn raw(bytes: &str) -> Vec<Do> {
    vec![Do::Send(Bytes::copy_from_slice(bytes.as_bytes())), Do::Close]
}

/// Bytes that are nowhere alike.
pub(crate) fn noise(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&length.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Everything is allowed that stays on loopback.
pub(crate) fn config() -> Config {
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let mut config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        origins: Origins::Listed(vec!["site.test".to_owned()]),
        allow_ranges: vec!["127.0.0.0/8".parse().unwrap()],
        nameservers: vec!["127.0.0.1:9".parse().unwrap()],
        ..Config::default()
    };
    config.hosts.insert("site.test".to_owned(), vec![loopback]);
    config.timeouts.resolve = Duration::from_millis(200);
    config
}

/// The same for an origin of any port.
pub(crate) fn config_for(origin: &Origin) -> Config {
    Config { origins: Origins::Listed(vec![format!("site.test:{}", origin.address.port())]), ..config() }
}

/// A site fetched from this origin.
pub(crate) fn site_of(origin: &Origin) -> Site {
    Site { origin: SiteOrigin::One(format!("http://{}", origin.address)), ..Site::default() }
}

/// One site for every host, with this origin.
pub(crate) fn config_site(origin: &Origin) -> Config {
    let mut config = Config { origins: Origins::default(), ..config() };
    config.sites.insert("*".to_owned(), site_of(origin));
    config
}

/// `origins = "any"`.
pub(crate) fn config_any() -> Config {
    Config { origins: Origins::Any(Any::Any), ..config() }
}

/// A description with an id of this number.
pub(crate) fn info(number: u8) -> NodeInfo {
    NodeInfo::new(NodeId::from(Key::of(&[number])), Roles::PROXY)
}

pub(crate) async fn store() -> Store {
    Store::open(atoll_store::Config::default()).await.unwrap()
}

/// A proxy without peers.
pub(crate) async fn alone(config: Config) -> Proxy {
    alone_with(config, store().await)
}

/// The same over this store.
pub(crate) fn alone_with(config: Config, store: Store) -> Proxy {
    let alone = Arc::new(Alone::new(info(0)));
    Proxy::start(config, Arc::clone(&alone) as Arc<dyn Index>, alone, store).unwrap()
}

/// A response as it came.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body ended as its framing says.
    pub(crate) complete: bool,
}

impl Response {
    /// A field's value, several joined.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self.fields.iter().filter(|(it, _)| it == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub(crate) fn cache_status(&self) -> String {
        self.field("cache-status").unwrap_or_default()
    }

    pub(crate) fn read(bytes: &[u8], head_only: bool) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields: Vec<_> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let rest = &bytes[end + 4..];
        let mut response = Self { status, fields, body: Vec::new(), complete: false };
        if head_only || matches!(status, 204 | 304) {
            response.complete = rest.is_empty();
        } else if response.field("transfer-encoding").is_some() {
            (response.body, response.complete) = dechunk(rest);
        } else {
            response.body = rest.to_vec();
            // What ends with its connection may always go on.
            let length = response.field("content-length").map(|length| length.parse().unwrap());
            response.complete = length == Some(rest.len());
        }
        response
    }
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        rest = &rest[line + 2..];
        if size == 0 {
            return (body, true);
        }
        if rest.len() < size + 2 {
            body.extend_from_slice(&rest[..rest.len().min(size)]);
            return (body, false);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn exchange(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    soon(async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A cut connection may end in a reset; what came before it counts.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    })
    .await
}

/// One request and its response.
pub(crate) async fn get_with(proxy: &Proxy, method: &str, host: &str, path: &str, fields: &str) -> Response {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    Response::read(&exchange(proxy.local_addrs()[0], request.as_bytes()).await, method == "HEAD")
}

pub(crate) async fn get(proxy: &Proxy, host: &str, path: &str) -> Response {
    get_with(proxy, "GET", host, path, "").await
}
