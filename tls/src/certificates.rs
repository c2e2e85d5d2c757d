//! The certificates in force: read from PEM files, chosen by name, exchanged as a whole when a file changes. What cannot be read
//! changes nothing.

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
use serde::Deserialize;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// Where a certificate and its key lie.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's key.
    pub key: PathBuf,
}

/// The certificates in force. The first serves whoever asks for a name that none has.
#[derive(Debug)]
pub struct Certificates {
    files: Vec<Files>,
    loaded: RwLock<Loaded>,
}

/// A name that a certificate covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// The name in lower case; `*.` may be its first label.
    pub name: String,
    /// Seconds since the Unix epoch after which the certificate is no longer valid.
    pub expires: u64,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is not there or holds something else.
    #[error("{}: {why}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The TLS library refused.
    #[error("TLS cannot be set up: {0}")]
    Library(rustls::Error),
}

#[derive(Debug, Default)]
struct Loaded {
    keys: Vec<Arc<CertifiedKey>>,
    names: Vec<Covered>,
    /// When the files were last changed, as read.
    changed: Vec<Option<SystemTime>>,
}

impl Certificates {
    /// Reads the files; every one must be good.
    ///
    /// # Errors
    /// The first file that is not.
    pub fn load(files: &[Files]) -> Result<Arc<Self>, CertificateError> {
        let loaded = read(files)?;
        Ok(Arc::new(Self { files: files.to_vec(), loaded: RwLock::new(loaded) }))
    }

    /// What a listener needs that speaks these protocols (ALPN), the preferred first.
    ///
    /// # Errors
    /// The TLS library's.
    pub fn server(self: &Arc<Self>, protocols: &[&str]) -> Result<Arc<ServerConfig>, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Library)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Reads the files again if one has changed; true if they are in force. Bad ones change nothing: those before stay.
    pub fn refresh(&self) -> bool {
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

    /// Whether the files are those in force. Changed ones are not until they were read, and bad ones never.
    #[must_use]
    pub fn is_current(&self) -> bool {
        changes(&self.files) == self.loaded.read().unwrap_or_else(PoisonError::into_inner).changed
    }

    /// The names that those in force cover, in the order of the files.
    #[must_use]
    pub fn names(&self) -> Vec<Covered> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).names.clone()
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

fn read(files: &[Files]) -> Result<Loaded, CertificateError> {
    let changed = changes(files);
    let keys: Vec<Arc<CertifiedKey>> = files.iter().map(|pair| one(pair).map(Arc::new)).collect::<Result<_, _>>()?;
    let names = keys.iter().filter_map(|key| key.cert.first()).flat_map(|leaf| covered(leaf)).collect();
    Ok(Loaded { keys, names, changed })
}

fn one(pair: &Files) -> Result<CertifiedKey, CertificateError> {
    let bad = |file: &Path, why: String| CertificateError::File { file: file.to_owned(), why };
    let chain = CertificateDer::pem_file_iter(&pair.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(&pair.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| bad(&pair.key, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| bad(&pair.key, error.to_string()))
}

/// The names of a leaf; none of one that cannot be read, or that is not valid yet.
fn covered(leaf: &CertificateDer<'_>) -> Vec<Covered> {
    let Ok((_, parsed)) = parse_x509_certificate(leaf) else { return Vec::new() };
    let expires = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(Covered { name: name.to_ascii_lowercase(), expires }),
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}

fn changes(files: &[Files]) -> Vec<Option<SystemTime>> {
    let of = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
    files.iter().flat_map(|pair| [of(&pair.certificate), of(&pair.key)]).collect()
}

/// How often the files are to be looked at. \[guess\]
pub const LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, names: &[&str], until: (i32, u8, u8)) -> Files {
        let mut params =
            rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let key = rcgen::KeyPair::generate().unwrap();
        let files = Files { certificate: folder.join("chain.pem"), key: folder.join("key.pem") };
        std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn names_and_end_are_read_and_change_with_the_files_but_not_for_bad_ones() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), &["*.nyud.example", "nyud.example"], (2037, 1, 1));
        let certificates = Certificates::load(std::slice::from_ref(&files)).unwrap();
        let covered = |name: &str, expires| Covered { name: name.to_owned(), expires };
        let first = [covered("*.nyud.example", 2_114_380_800), covered("nyud.example", 2_114_380_800)];
        assert_eq!(certificates.names(), first);
        assert!(!certificates.refresh(), "nothing has changed");
        let later = |file: &Path| {
            let changed = SystemTime::now() + Duration::from_secs(60);
            std::fs::File::options().append(true).open(file).unwrap().set_modified(changed).unwrap();
        };
        std::fs::write(&files.certificate, "nonsense").unwrap();
        later(&files.certificate);
        assert!(!certificates.refresh() && certificates.names() == first, "a bad file changes nothing");
        assert!(!certificates.is_current());
        write(folder.path(), &["other.example"], (2038, 1, 1));
        later(&files.key);
        assert!(certificates.refresh());
        assert_eq!(certificates.names(), [covered("other.example", 2_145_916_800)]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let missing = Files { certificate: "/nowhere/chain.pem".into(), key: "/nowhere/key.pem".into() };
        let error = Certificates::load(&[missing]).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/chain.pem"), "{error}");
    }
}
