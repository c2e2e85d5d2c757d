//! Peers that join a manager, beat, and say who they are when they are dialled, each under an address of its own in 127.1.0.0/16; what
//! they say is specified in the manager's `wire` and `token`.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};

/// What they join with.
pub(super) const TOKEN: &str = "a-token-for-the-bench-only";

/// Peers that live until dropped.
pub(super) struct Peers {
    _stop: oneshot::Sender<()>,
}

/// The session of each address.
type Sessions = Arc<Mutex<HashMap<Ipv4Addr, [u8; 32]>>>;

impl Peers {
    /// Lets so many join and returns when all have. `net` keeps the addresses of two groups apart.
    pub(super) fn join(manager: SocketAddr, count: usize, net: u8) -> Result<Self, String> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (done, joined) = std::sync::mpsc::sync_channel(1);
        thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                let outcome = start(&mut tasks, manager, count, net).await;
                if done.send(outcome).is_ok() {
                    // Ends when the group is dropped.
                    let _ = stopped.await;
                }
                tasks.shutdown().await;
            });
        });
        joined.recv().map_err(|error| error.to_string())??;
        Ok(Self { _stop: stop })
    }
}

async fn start(tasks: &mut JoinSet<()>, manager: SocketAddr, count: usize, net: u8) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(|error| error.to_string())?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    let sessions = Sessions::default();
    tasks.spawn(say_hello(listener, Arc::clone(&sessions)));
    for number in 0..count {
        let [.., high, low] = u32::try_from(number).unwrap_or(0).to_be_bytes();
        let place = Ipv4Addr::new(127, net, high, low.max(1));
        let place = if low == 0 { Ipv4Addr::new(127, net + 1, high, 1) } else { place };
        let mut stream = TcpStream::connect(manager).await.map_err(|error| error.to_string())?;
        let name = format!("{net:02x}{number:014x}");
        let session = admit(&mut stream, &name, place, port).await?;
        lock(&sessions).insert(place, session);
        tasks.spawn(beat(stream, name, session));
    }
    Ok(())
}

/// Knocks and joins; the session's key.
async fn admit(stream: &mut TcpStream, name: &str, place: Ipv4Addr, port: u16) -> Result<[u8; 32], String> {
    let (_, challenge) = post(stream, "/_atoll/knock", "", "null").await?;
    let challenge: Value = serde_json::from_str(&challenge).map_err(|error| error.to_string())?;
    let nonce = challenge["nonce"].as_str().unwrap_or_default().to_owned();
    let secret = blake3::derive_key("atoll manager token v1", TOKEN.as_bytes());
    let id = blake3::derive_key("atoll manager token id v1", &secret);
    let token: String = id.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let advertise = format!("http://{place}:{port}");
    // Any 32 bytes name a node.
    let node = blake3::hash(name.as_bytes()).to_string();
    let (own, version, bytes) = (format!("{name}nonce"), "bench", port.to_be_bytes());
    let parts = [
        &b"join"[..],
        token.as_bytes(),
        name.as_bytes(),
        nonce.as_bytes(),
        own.as_bytes(),
        advertise.as_bytes(),
        node.as_bytes(),
        version.as_bytes(),
        &bytes,
    ];
    let proof = proof(&secret, &parts);
    let join = json!({ "token": token, "peer": name, "nonce": nonce, "own_nonce": own, "advertise": advertise, "port": port,
        "node": node, "version": version, "proof": proof });
    let (status, said) = post(stream, "/_atoll/join", "", &join.to_string()).await?;
    if status != 200 {
        return Err(format!("a peer was not admitted: {said}"));
    }
    let mut hasher = blake3::Hasher::new_derive_key("atoll peer session v1");
    hasher.update(&secret);
    feed(&mut hasher, &[nonce.as_bytes(), own.as_bytes()]);
    Ok(*hasher.finalize().as_bytes())
}

async fn beat(mut stream: TcpStream, name: String, session: [u8; 32]) {
    let mut number = 0_u64;
    loop {
        number += 1;
        let beat = json!({ "peer": name, "number": number, "neighbours": 1, "version": "bench" }).to_string();
        let proof = proof(&session, &[b"beat", beat.as_bytes()]);
        if post(&mut stream, "/_atoll/beat", &format!("Atoll-Proof: {proof}\r\n"), &beat).await.is_err() {
            return;
        }
        sleep(BEAT).await;
    }
}

/// Answers whoever dials one of the peers.
async fn say_hello(listener: TcpListener, sessions: Sessions) {
    let mut answers = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        while answers.try_join_next().is_some() {}
        let sessions = Arc::clone(&sessions);
        answers.spawn(async move {
            let Ok(SocketAddr::V4(at)) = stream.local_addr() else { return };
            let mut head = [0; 2048];
            let Ok(count) = stream.read(&mut head).await else { return };
            let text = String::from_utf8_lossy(head.get(..count).unwrap_or_default()).into_owned();
            let nonce =
                text.split_once("nonce=").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default();
            let Some(session) = lock(&sessions).get(at.ip()).copied() else { return };
            let proof = proof(&session, &[b"hello", nonce.as_bytes(), format!("http://{at}").as_bytes()]);
            let body = json!({ "peer": "", "proof": proof }).to_string();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            // Whoever dialled may have gone.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

async fn post(stream: &mut TcpStream, path: &str, fields: &str, body: &str) -> Result<(u16, String), String> {
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: bench\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).await.map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("the manager hung up".to_owned());
        }
        seen.extend_from_slice(piece.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if body.len() >= length.unwrap_or(0) {
            let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
            return Ok((status.unwrap_or(0), body.to_owned()));
        }
    }
}

fn proof(key: &[u8; 32], parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new_keyed(key);
    feed(&mut hasher, parts);
    hasher.finalize().to_string()
}

fn feed(hasher: &mut blake3::Hasher, parts: &[&[u8]]) {
    for part in parts {
        hasher.update(&u64::try_from(part.len()).unwrap_or(0).to_be_bytes());
        hasher.update(part);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Under the manager's patience of 1.5 s.
const BEAT: Duration = Duration::from_millis(700);
