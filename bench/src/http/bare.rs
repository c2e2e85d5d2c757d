//! The least a server can do: the same bytes for the same paths, without a cache. `bare` parses with hyper, as the proxy does for
//! what is not simple; `epoll` only looks for the end of the head.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, IoSlice, Read as _, Write as _},
    net::SocketAddr,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mio::{Events, Interest, Poll, Token, net};
use tokio::{net::TcpListener, task::LocalSet};

use super::length_of;

/// A body for each path asked for, made once: one for all of a length would lie in the processor's cache, where no cache's objects do.
#[derive(Default)]
struct Bodies(HashMap<Box<[u8]>, Bytes>);

impl Bodies {
    fn of(&mut self, path: &[u8]) -> Bytes {
        let length = length_of(path).unwrap_or(0).min(MOST);
        let size = usize::try_from(length).unwrap_or(0);
        if let Some(body) = self.0.get(path) {
            return body.clone();
        }
        let body = Bytes::from(vec![b'x'; size]);
        if self.0.len() < PATHS {
            self.0.insert(path.into(), body.clone());
        }
        body
    }
}

/// hyper on one current-thread runtime.
pub(super) fn hyper(address: SocketAddr) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let served: io::Result<()> = runtime.block_on(LocalSet::new().run_until(async {
        let listener = TcpListener::bind(address).await?;
        let bodies = std::rc::Rc::new(std::cell::RefCell::new(Bodies::default()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let bodies = std::rc::Rc::clone(&bodies);
            let service = service_fn(move |request: Request<Incoming>| {
                let body = bodies.borrow_mut().of(request.uri().path().as_bytes());
                let response = Response::builder()
                    .header("content-type", "application/octet-stream")
                    .header("cache-control", "max-age=86400")
                    .body(Full::new(body));
                async move { Ok::<_, Infallible>(response.unwrap_or_default()) }
            });
            tokio::task::spawn_local(async move {
                // It ends when the client goes.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }));
    served.map_err(|error| format!("{address}: {error}"))
}

/// One connection of the bare loop.
struct Link {
    stream: net::TcpStream,
    asked: Vec<u8>,
    head: Vec<u8>,
    body: Bytes,
    /// Bytes of head and body that are out.
    sent: usize,
}

/// epoll, one read and one writev an answer.
pub(super) fn epoll(address: SocketAddr) -> Result<(), String> {
    let failed = |error: io::Error| format!("{address}: {error}");
    let mut poll = Poll::new().map_err(failed)?;
    let mut listener = net::TcpListener::bind(address).map_err(failed)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(failed)?;
    let (mut events, mut links, mut next) = (Events::with_capacity(1024), HashMap::new(), 0);
    let mut bodies = Bodies::default();
    loop {
        poll.poll(&mut events, None).map_err(failed)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true).map_err(failed)?;
                    next += 1;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(next), interest).map_err(failed)?;
                    let link = Link { stream, asked: Vec::new(), head: Vec::new(), body: Bytes::new(), sent: 0 };
                    links.insert(next, link);
                }
                continue;
            }
            let number = event.token().0;
            let lives = links.get_mut(&number).is_none_or(|link: &mut Link| link.go_on(&mut bodies).unwrap_or(false));
            if !lives {
                links.remove(&number);
            }
        }
    }
}

impl Link {
    /// Does what can be done now; false once the client has gone.
    fn go_on(&mut self, bodies: &mut Bodies) -> io::Result<bool> {
        loop {
            while self.sent < self.head.len() + self.body.len() {
                let within = self.sent.saturating_sub(self.head.len());
                let rest =
                    [IoSlice::new(self.head.get(self.sent..).unwrap_or_default()), IoSlice::new(&self.body[within..])];
                match self.stream.write_vectored(&rest) {
                    Ok(count) => self.sent += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(count) => self.asked.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
            if self.asked.ends_with(b"\r\n\r\n") {
                self.body = bodies.of(self.asked.split(|byte| *byte == b' ').nth(1).unwrap_or_default());
                self.head.clear();
                write!(self.head, "{HEAD}{}\r\n\r\n", self.body.len())?;
                (self.sent, self.asked) = (0, Vec::new());
            }
        }
    }
}

const LISTENER: Token = Token(0);

const HEAD: &str = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                    Content-Type: application/octet-stream\r\nCache-Control: max-age=86400\r\nContent-Length: ";

/// The longest body.
const MOST: u64 = 16 << 20;

/// Paths whose bodies are kept.
const PATHS: usize = 20_000;
