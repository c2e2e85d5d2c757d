//! TLS towards clients, for whoever listens: certificates from files, chosen by the name a client asks for, read again when the
//! files change. The proxy and the DNS server have each their own; neither knows the other.
//!
//! ```text
//!   files --load, refresh--> Certificates --server(protocols)--> rustls::ServerConfig
//!                                 '-------names()--> what they cover, and until when
//! ```
//!
//! Read [`Certificates`] first.

mod certificates;
pub use certificates::{CertificateError, Certificates, Covered, Files, LOOK};
