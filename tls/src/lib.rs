//! TLS towards clients, for whoever listens: certificates from files, chosen by the name a client asks for, read again when the
//! files change. The proxy and the DNS server have each their own; neither knows the other. And towards other machines: whom to
//! believe.
//!
//! ```text
//!   files --load, refresh--> Certificates --server(protocols)--> rustls::ServerConfig
//!                                 '-------names()--> what they cover, and until when
//!   the system's roots --client(protocols)--> rustls::ClientConfig
//! ```
//!
//! Read [`Certificates`] first.

mod certificates;
pub use certificates::{CertificateError, Certificates, Covered, Files, LOOK};

mod trust;
pub use trust::client;
