//! The listeners: which addresses are open, and to whom. What is answered is `routes`' business.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    AdminConfig,
    gate::{Door, Names},
    metrics,
    routes::{self, Desk},
    token::Token,
};
use crate::{
    accept::{self, Accept, Answer, Limits},
    port_holder::{Protocol, bind_error},
    state::State,
    status::StatusSource,
};

/// The running admin API. Dropping it stops it.
#[derive(Debug)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    socket: Option<PathBuf>,
    token: Arc<Token>,
    tasks: JoinSet<()>,
}

impl Admin {
    /// Opens the socket and the TCP addresses of the configuration, or none of them.
    pub async fn start(config: &AdminConfig, state: &State, source: Arc<dyn StatusSource>) -> Result<Self, AdminError> {
        metrics::start();
        // Also where TCP is not served: what is wrong with it is told at once, and it is there once TCP is wanted.
        let token = Token::load(config.token_file.as_deref(), state);
        let token = Arc::new(token.map_err(|error| AdminError::Token(error.to_string()))?);
        let mut admin = Self { addresses: Vec::new(), socket: None, token: token.clone(), tasks: JoinSet::new() };
        let body_timeout = config.head_timeout;
        let desk = Arc::new(Desk { source, body_limit: config.body_limit, body_timeout });
        let limits = Limits { connections: config.connections, head_timeout: config.head_timeout };
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|error| AdminError::Listen(bind_error(&error, *address, Protocol::Tcp)))?;
            admin.addresses.push(listener.local_addr().map_err(|error| AdminError::Listen(error.to_string()))?);
            let door = Arc::new(Door::Tcp(Names::new(&config.hosts), token.clone()));
            let entrance = Entrance { desk: desk.clone(), door };
            admin.tasks.spawn(accept::serve(listener, limits, entrance));
        }
        #[cfg(unix)]
        if !config.socket.as_os_str().is_empty() {
            let listener = unix::bind(&config.socket).await?;
            admin.socket = Some(config.socket.clone());
            let entrance = Entrance { desk, door: Arc::new(Door::Socket) };
            admin.tasks.spawn(accept::serve(listener, limits, entrance));
        }
        admin.tasks.spawn(metrics::keep_up());
        Ok(admin)
    }

    /// The TCP addresses it listens on, with the ports it got.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The Unix socket it listens on.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The file that holds the token, if TCP is served.
    #[must_use]
    pub fn token_path(&self) -> Option<&Path> {
        (!self.addresses.is_empty()).then(|| self.token.path())
    }

    /// The dashboard's address with the token as its fragment, which no browser sends over the wire. A secret: for the
    /// terminal of whoever started the node, not for a log.
    #[must_use]
    pub fn dashboard_url(&self) -> Option<String> {
        Some(format!("http://{}/#token={}", self.addresses.first()?, self.token.reveal()))
    }

    /// Stops listening and cuts what is open.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Why the admin API could not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A TCP address cannot be had.
    #[error("the admin API cannot listen: {0}")]
    Listen(String),
    /// The socket cannot be had.
    #[error("the admin API cannot listen on {}: {reason}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no token.
    #[error("the admin API has no token: {0}")]
    Token(String),
}

/// One way in: who may ask, and what is answered.
#[derive(Clone)]
struct Entrance {
    desk: Arc<Desk>,
    door: Arc<Door>,
}

impl<C: Send> Answer<C> for Entrance {
    async fn answer(&self, _: C, request: Request<Incoming>) -> Response<Full<Bytes>> {
        routes::answer(&self.desk, &self.door, request).await
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// The socket, and the user it belongs to.
    pub(super) struct Bound {
        listener: UnixListener,
        owner: u32,
    }

    /// Binds the path, taking it over from a node that is gone, never from one that answers.
    pub(super) async fn bind(path: &Path) -> Result<Bound, AdminError> {
        let failed = |reason: String| AdminError::Socket { path: path.to_owned(), reason };
        if UnixStream::connect(path).await.is_ok() {
            return Err(failed("a node that is running answers there".to_owned()));
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                std::fs::remove_file(path).map_err(|error| failed(error.to_string()))?;
            }
            Ok(_) => return Err(failed("something that is no socket is there".to_owned())),
            Err(_) => {}
        }
        let bound = || {
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            let owner = std::fs::metadata(path)?.uid();
            io::Result::Ok(Bound { listener, owner })
        };
        bound().map_err(|error| failed(error.to_string()))
    }

    /// Lets in the socket's owner and root. The file's rights say so already; between bind and chmod they do not yet.
    impl Accept for Bound {
        type Stream = UnixStream;
        type Client = ();

        async fn accept(&self) -> io::Result<(UnixStream, ())> {
            loop {
                let (stream, _) = self.listener.accept().await?;
                if stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0) {
                    return Ok((stream, ()));
                }
            }
        }
    }
}
