//! The way of peers on other machines to a backend that only this one can reach, such as `http://127.0.0.1:8000`: a port of the
//! manager's that carries bytes to the backend and back, for machines that peers joined from and for nobody else.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::office::Office;

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, office: Arc<Office>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, from)) if office.roster().is_from(from.ip()) => {
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                let backend = office.service.site.dialled();
                connections.spawn(async move {
                    let _slot = slot;
                    // Either side may break off; the other is then told by the closed connection.
                    let _ = carry(client, &backend).await;
                });
            }
            Ok((_, from)) => tracing::debug!(%from, "no peer is there: the backend is not shown"),
            Err(error) => {
                tracing::warn!(%error, "a connection to the backend could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether a backend can be reached from this machine alone.
pub(super) fn is_needed(backend: &str) -> bool {
    let host = backend.rsplit_once(':').map_or(backend, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Where a peer that came from there, by this name of the manager, finds the backend; "" if it can dial it by itself.
pub(super) fn for_peer(office: &Office, from: SocketAddr, host: &str) -> String {
    let Some(port) = office.door.filter(|_| !from.ip().to_canonical().is_loopback()) else { return String::new() };
    format!("{host}:{port}")
}

async fn carry(mut client: TcpStream, backend: &str) -> io::Result<()> {
    let mut to = timeout(CONNECT, TcpStream::connect(backend)).await??;
    copy_bidirectional(&mut client, &mut to).await?;
    Ok(())
}

/// Connections to the backend by peers, all together. `[guess]`
const CONNECTIONS: usize = 256;

/// For the backend to take one.
const CONNECT: Duration = Duration::from_secs(5);

/// After a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backend_on_the_managers_own_machine_needs_a_door() {
        for backend in ["127.0.0.1:8000", "localhost:80", "[::1]:8000", "127.9.9.9:1"] {
            assert!(is_needed(backend), "{backend}");
        }
        for backend in ["10.0.0.1:8000", "files.test:80", "[2001:db8::1]:8000", "localhost.example:80"] {
            assert!(!is_needed(backend), "{backend}");
        }
    }
}
