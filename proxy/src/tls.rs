//! TLS towards clients: certificates from files, chosen by the name the client asks for, read again when the files change.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};

use crate::{config::Certificate, error::StartError};

/// The certificates in force. The first serves whoever asks for a name that none has.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<Certificate>,
    loaded: RwLock<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    keys: Vec<Arc<CertifiedKey>>,
    /// When the files were last changed, as read.
    changed: Vec<Option<SystemTime>>,
}

impl Certificates {
    /// Reads the files; every one must be good.
    pub(crate) fn load(files: &[Certificate]) -> Result<Arc<Self>, StartError> {
        let loaded = read(files)?;
        Ok(Arc::new(Self { files: files.to_vec(), loaded: RwLock::new(loaded) }))
    }

    /// What listeners need.
    pub(crate) fn server(self: &Arc<Self>) -> Result<Arc<ServerConfig>, StartError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| StartError::Tls { source })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Reads the files again if one has changed. Bad ones change nothing: those in force stay.
    pub(crate) fn refresh(&self) -> bool {
        let changed: Vec<_> = changes(&self.files);
        if changed == self.loaded.read().unwrap_or_else(PoisonError::into_inner).changed {
            return false;
        }
        match read(&self.files) {
            Ok(loaded) => {
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                tracing::info!("certificates were read again");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "changed certificates cannot be used; those before stay in force");
                false
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let parsed = key.cert.first().and_then(|cert| ParsedCertificate::try_from(cert).ok());
            parsed.zip(wanted.as_ref()).is_some_and(|(parsed, name)| verify_server_name(&parsed, name).is_ok())
        };
        loaded.keys.iter().find(fits).or_else(|| loaded.keys.first()).cloned()
    }
}

fn read(files: &[Certificate]) -> Result<Loaded, StartError> {
    let changed = changes(files);
    let keys = files.iter().map(|pair| one(pair).map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(Loaded { keys, changed })
}

fn one(pair: &Certificate) -> Result<CertifiedKey, StartError> {
    let bad = |file: &Path, why: String| StartError::Certificate { file: file.to_owned(), why };
    let chain = CertificateDer::pem_file_iter(&pair.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(&pair.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| bad(&pair.key, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| bad(&pair.key, error.to_string()))
}

fn changes(files: &[Certificate]) -> Vec<Option<SystemTime>> {
    let of = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
    files.iter().flat_map(|pair| [of(&pair.certificate), of(&pair.key)]).collect()
}

/// How often the files are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
