//! Origin names to connections: every address of a name is checked by the guard and a checked one is dialled, so that an answer
//! that changes between check and dial changes nothing. The one place that opens sockets to origins.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::{FutureExt as _, select_ok};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::{net::TcpStream, time::timeout};

use crate::{config::Config, guard::Guard, reason::Failure};

/// What says which addresses are this network's own, asked anew for every dial.
pub(crate) type OwnAddresses = Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// Resolves, checks, dials.
pub(crate) struct Resolver {
    dns: Option<TokioResolver>,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    guard: Guard,
    own: OwnAddresses,
    resolve: Duration,
    connect: Duration,
}

impl Resolver {
    /// A resolver by the configuration. Without any usable DNS configuration only `hosts` resolve.
    pub(crate) fn new(config: &Config, own: OwnAddresses) -> Self {
        let dns = dns(config);
        if let Err(error) = &dns {
            tracing::warn!(%error, "no DNS configuration; only names under `hosts` resolve");
        }
        let hosts = config.hosts.iter().map(|(host, addresses)| (host.to_ascii_lowercase(), addresses.clone()));
        Self {
            dns: dns.ok(),
            hosts: hosts.collect(),
            guard: Guard { allow: config.allow_ranges.clone(), protected: config.protected.clone() },
            own,
            resolve: config.timeouts.resolve,
            connect: config.timeouts.connect,
        }
    }

    /// A connection to this host, or why there is none. `exempt` names a configured origin.
    pub(crate) async fn dial(&self, host: &str, port: u16, exempt: bool) -> Result<TcpStream, Failure> {
        let addresses = self.addresses(host).await?;
        let mut addresses: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        self.guard.check(&addresses, &(self.own)(), exempt).map_err(|prohibited| {
            tracing::debug!(host, %prohibited, "origin refused");
            Failure::Prohibited
        })?;
        addresses.truncate(ADDRESSES_TRIED);
        interleave(&mut addresses);
        // RFC 8305 5: the next address joins in after a pause, whatever has become of those before.
        let attempts = addresses.into_iter().zip(0u32..).map(|(address, place)| {
            async move {
                tokio::time::sleep(STAGGER * place).await;
                let stream = TcpStream::connect(address).await?;
                if stream.peer_addr()? != address {
                    return Err(std::io::ErrorKind::AddrNotAvailable.into());
                }
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(stream)
            }
            .boxed()
        });
        match timeout(self.connect, select_ok(attempts)).await {
            Ok(Ok((stream, _))) => Ok(stream),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => Err(Failure::ConnectTimeout),
            Ok(Err(_)) => Err(Failure::ConnectRefused),
            Err(_) => Err(Failure::ConnectTimeout),
        }
    }

    /// Every address of a host, at least one.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![address]);
        }
        if let Some(addresses) = self.hosts.get(host) {
            return if addresses.is_empty() { Err(Failure::DnsError) } else { Ok(addresses.clone()) };
        }
        let dns = self.dns.as_ref().ok_or(Failure::DnsError)?;
        // The dot ends the name: no search domain is tried.
        let found = match timeout(self.resolve, dns.lookup_ip(format!("{host}."))).await {
            Ok(Ok(found)) => found,
            Ok(Err(NetError::Timeout)) | Err(_) => return Err(Failure::DnsTimeout),
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "origin name does not resolve");
                return Err(Failure::DnsError);
            }
        };
        let addresses: Vec<_> = found.iter().collect();
        if addresses.is_empty() { Err(Failure::DnsError) } else { Ok(addresses) }
    }
}

fn dns(config: &Config) -> Result<TokioResolver, NetError> {
    let mut builder = if config.nameservers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = config.nameservers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let servers = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.timeout = config.timeouts.resolve / 2;
    options.attempts = 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    // Failing names are remembered, but not for longer than failing origins are.
    options.negative_min_ttl = Some(config.freshness.negative_first);
    options.negative_max_ttl = Some(config.freshness.negative_most);
    builder.build()
}

/// Alternates the families, IPv6 first [RFC 8305 4].
fn interleave(addresses: &mut Vec<SocketAddr>) {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.drain(..).partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    loop {
        let before = addresses.len();
        addresses.extend(v6.next());
        addresses.extend(v4.next());
        if addresses.len() == before {
            return;
        }
    }
}

/// Addresses of one name that are dialled at most [bad-inputs O08]; all are checked.
const ADDRESSES_TRIED: usize = 16;

/// Pause before the next address joins in [RFC 8305 8].
const STAGGER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn resolver(config: &Config, own: &[SocketAddr]) -> Resolver {
        let own = own.to_vec();
        Resolver::new(config, Arc::new(move || own.clone()))
    }

    /// A listener that must never be reached, and names that lead to it.
    async fn trap() -> (TcpListener, Config) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::default();
        config.hosts.insert("inside.test".to_owned(), vec!["127.0.0.1".parse().unwrap()]);
        config
            .hosts
            .insert("mixed.test".to_owned(), vec!["192.88.98.1".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        (listener, config)
    }

    fn untouched(listener: &TcpListener) {
        // A connection would be in the backlog before the refusal returned.
        assert!(listener.accept().now_or_never().is_none());
    }

    // O01, O02
    #[tokio::test]
    async fn a_name_with_one_inner_address_is_refused_and_nothing_is_dialled() {
        let (listener, config) = trap().await;
        let resolver = resolver(&config, &[]);
        let port = listener.local_addr().unwrap().port();
        for host in ["inside.test", "mixed.test"] {
            assert_eq!(resolver.dial(host, port, false).await.unwrap_err(), Failure::Prohibited, "{host}");
        }
        untouched(&listener);
    }

    #[tokio::test]
    async fn allowed_ranges_and_configured_origins_are_dialled_but_never_an_own_listener() {
        let (listener, mut config) = trap().await;
        let address = listener.local_addr().unwrap();
        assert!(resolver(&config, &[]).dial("inside.test", address.port(), true).await.is_ok());
        config.allow_ranges = vec!["127.0.0.0/8".parse().unwrap()];
        assert!(resolver(&config, &[]).dial("inside.test", address.port(), false).await.is_ok());
        let own = resolver(&config, &[address]);
        assert_eq!(own.dial("inside.test", address.port(), true).await.unwrap_err(), Failure::Prohibited);
    }

    // O08: the name server is a silent socket.
    #[tokio::test]
    async fn a_silent_name_server_is_a_dns_time_out() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config { nameservers: vec![silent.local_addr().unwrap()], ..Config::default() };
        config.timeouts.resolve = Duration::from_millis(200);
        let failure = resolver(&config, &[]).dial("www.example.com", 80, false).await.unwrap_err();
        assert!(matches!(failure, Failure::DnsTimeout | Failure::DnsError), "{failure}");
    }

    #[test]
    fn families_alternate() {
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        let mut addresses = vec![at("1.1.1.1"), at("1.1.1.2"), at("::1"), at("1.1.1.3")];
        interleave(&mut addresses);
        assert_eq!(addresses, [at("::1"), at("1.1.1.1"), at("1.1.1.2"), at("1.1.1.3")]);
    }
}
