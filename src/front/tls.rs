//! The certificate of a front, if it was given one: read again when its files change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use atoll_tls::{CertificateError, Certificates, Files, LOOK};
use tokio::{task::JoinHandle, time::sleep};
use tokio_rustls::rustls::ServerConfig;

/// A certificate in force.
#[derive(Debug)]
pub(crate) struct Tls {
    certificates: Arc<Certificates>,
    looking: JoinHandle<()>,
}

impl Tls {
    /// Reads chain and key, if both were named.
    pub(crate) fn load(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Self>, CertificateError> {
        let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
        let certificates = Certificates::load(&[Files { certificate: certificate.clone(), key: key.clone() }])?;
        let watched = Arc::clone(&certificates);
        let looking = tokio::spawn(async move {
            loop {
                sleep(LOOK).await;
                if watched.refresh() {
                    warn_of_end(&watched);
                }
            }
        });
        warn_of_end(&certificates);
        Ok(Some(Self { certificates, looking }))
    }

    /// What a listener needs.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        self.certificates.server(&["http/1.1"])
    }

    /// The first name it covers by itself.
    pub(crate) fn name(&self) -> Option<String> {
        self.certificates.names().into_iter().map(|covered| covered.name).find(|name| !name.starts_with("*."))
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// Says so when a certificate has ended: clients will not believe it.
fn warn_of_end(certificates: &Certificates) {
    let now = super::meter::unix_now();
    for covered in certificates.names().iter().filter(|covered| covered.expires <= now) {
        let ago = Duration::from_secs(now - covered.expires);
        tracing::warn!(name = covered.name, ?ago, "the certificate has ended: clients do not believe it");
    }
}
