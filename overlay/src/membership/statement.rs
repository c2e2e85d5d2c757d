//! What a member says to every node under its name: a purge, say. Its signer is known from the statement alone, so that any node may
//! pass it on; what it says is its reader's business.

use super::{
    Certificate, Malformed, Membership, NetworkId, NotMember, PublicKey, Revocations, Term, UnixTime,
    bytes::Reader,
    signing::{Purpose, SignatureBytes, verify_covered},
};
use crate::{Key, NodeId, Roles};

/// Words with their signer. Layout: magic `ast1` 4; signer 1 (0 in an open network: its public key 32; 1 in a closed one: its
/// certificate 235); issued 8 (Unix seconds); signature 64; then the words. The signature covers what it is for, the network (its
/// public key, or `open` and the SHA-1 of its name), the signer as it travels, issued, and the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// When it was signed, by the signer's clock.
    pub issued: UnixTime,
    /// What is said.
    pub words: Vec<u8>,
    signer: Signer,
    signature: SignatureBytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Signer {
    Key(PublicKey),
    Member(Box<Certificate>),
}

/// The network in which something is said, as the reader or the speaker is placed in it.
#[derive(Debug, Clone, Copy)]
pub enum Forum<'a> {
    /// An open network of this name.
    Open(&'a str),
    /// A closed network, and who is shut out of it.
    Closed(&'a NetworkId, &'a Revocations),
}

/// What was found of a statement that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Who says it.
    pub signer: NodeId,
    /// When it was signed, by the signer's clock.
    pub issued: UnixTime,
    /// What is said.
    pub words: Vec<u8>,
}

impl Statement {
    /// Bytes of words at most: with a certificate around them they fit into what is spread, 1,024 bytes.
    pub const WORDS: usize = 700;

    /// Has a node say something in an open network, signed by `sign` with this key.
    pub fn open(
        name: &str,
        key: PublicKey,
        issued: UnixTime,
        words: Vec<u8>,
        sign: impl FnOnce(&[u8]) -> SignatureBytes,
    ) -> Self {
        let mut statement = Self { issued, words, signer: Signer::Key(key), signature: [0; 64] };
        statement.signature = sign(&statement.covered(&of_open(name)));
        statement
    }

    /// Has a member of a closed network say something, signed by `sign` with its certificate's key.
    pub fn closed(
        own: &Membership,
        issued: UnixTime,
        words: Vec<u8>,
        sign: impl FnOnce(&[u8]) -> SignatureBytes,
    ) -> Self {
        let signer = Signer::Member(Box::new(own.certificate));
        let mut statement = Self { issued, words, signer, signature: [0; 64] };
        statement.signature = sign(&statement.covered(&own.network.key().0));
        statement
    }

    /// Whether a record is a statement, by its magic.
    #[must_use]
    pub fn is_one(record: &[u8]) -> bool {
        record.starts_with(&MAGIC)
    }

    /// Reads the layout above; believes nothing yet.
    ///
    /// # Errors
    /// The bytes are no statement of a version known here, or it has too many words.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes.strip_prefix(&MAGIC).ok_or(Malformed)?);
        let signer = match reader.byte()? {
            0 => Signer::Key(PublicKey(reader.take()?)),
            1 => {
                let certificate: [u8; Certificate::BYTES] = reader.take()?;
                Signer::Member(Box::new(Certificate::from_bytes(&certificate)?))
            }
            _ => return Err(Malformed),
        };
        let (issued, signature) = (UnixTime(reader.number()?), reader.take()?);
        let words = reader.rest().to_vec();
        if words.len() > Self::WORDS {
            return Err(Malformed);
        }
        Ok(Self { issued, words, signer, signature })
    }

    /// The layout above.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&MAGIC[..], &self.signer.to_bytes(), &self.issued.0.to_be_bytes(), &self.signature, &self.words].concat()
    }

    /// Who says it, if it is to be believed: in a closed network the signer's certificate must have held when it was signed, must not
    /// have been revoked since, and must allow `right`; in an open one everybody may say anything. Nothing is believed that was
    /// signed in the future.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn believe(self, forum: Forum<'_>, right: Roles, now: UnixTime) -> Result<Said, NotBelieved> {
        if (Term { issued: self.issued, not_after: self.issued }).is_to_come(now) {
            return Err(NotBelieved::Future);
        }
        let (network, key, signer) = match (forum, &self.signer) {
            (Forum::Open(name), Signer::Key(key)) => {
                (of_open(name).to_vec(), *key, NodeId::of(name, 0, &key.peer_id()))
            }
            (Forum::Closed(network, revocations), Signer::Member(certificate)) => {
                certificate.verify(network, self.issued, revocations)?;
                if !certificate.roles().contain(right) {
                    return Err(NotBelieved::Right);
                }
                (network.key().0.to_vec(), certificate.node, certificate.place(network))
            }
            (Forum::Open(_), Signer::Member(_)) | (Forum::Closed(..), Signer::Key(_)) => {
                return Err(NotBelieved::Foreign);
            }
        };
        if !verify_covered(&key, &self.covered(&network), &self.signature) {
            return Err(NotBelieved::Foreign);
        }
        Ok(Said { signer, issued: self.issued, words: self.words })
    }

    fn covered(&self, network: &[u8]) -> Vec<u8> {
        let issued = self.issued.0.to_be_bytes();
        [Purpose::Statement.word(), network, &self.signer.to_bytes(), &issued, &self.words].concat()
    }
}

impl Signer {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Key(key) => [&[0][..], &key.0].concat(),
            Self::Member(certificate) => [&[1][..], &certificate.to_bytes()].concat(),
        }
    }
}

/// Why a statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBelieved {
    /// The bytes are none of ours.
    #[error("it is no statement of a version known here")]
    Malformed,
    /// It was said in another network, or signed by somebody else than it says.
    #[error("nobody of this network signed it")]
    Foreign,
    /// The signer is no member.
    #[error("its signer is no member: {0}")]
    NotMember(#[from] NotMember),
    /// The signer's certificate does not allow it.
    #[error("its signer's certificate does not allow it")]
    Right,
    /// It was signed more than a day ahead of this node's clock.
    #[error("it was signed more than a day ahead of this node's clock")]
    Future,
}

/// Why a node cannot say something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsaid {
    /// Too many words.
    #[error("{length} bytes of words are too many, {} at most", Statement::WORDS)]
    TooLong {
        /// How many there are.
        length: usize,
    },
    /// This node's certificate does not allow it.
    #[error("this node's certificate does not allow it: nobody would believe it")]
    Right,
    /// The node's key cannot sign.
    #[error("this node has no key that signs")]
    NoKey,
}

/// What stands for an open network in what is signed: a closed one's key has another length.
fn of_open(name: &str) -> [u8; 24] {
    let mut network = [0; 24];
    let (word, hash) = network.split_at_mut(4);
    word.copy_from_slice(b"open");
    hash.copy_from_slice(Key::of(name.as_bytes()).as_bytes());
    network
}

/// What a statement begins with, among spread records.
const MAGIC: [u8; 4] = *b"ast1";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::membership::{Limits, NetworkKey, Revoked};

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn key(seed: u8) -> (SigningKey, PublicKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey(key.verifying_key().to_bytes());
        (key, public)
    }

    fn in_open(seed: u8, network: &str) -> Statement {
        let (secret, public) = key(seed);
        Statement::open(network, public, NOW, b"purge".to_vec(), |bytes| secret.sign(bytes).to_bytes())
    }

    #[test]
    fn an_open_network_believes_whoever_signed_for_itself() {
        let statement = in_open(1, "net");
        let read = Statement::from_bytes(&statement.to_bytes()).unwrap();
        assert_eq!(read, statement);
        let said = read.believe(Forum::Open("net"), Roles::PURGE, NOW).unwrap();
        assert_eq!((said.signer, said.words), (NodeId::of("net", 0, &key(1).1.peer_id()), b"purge".to_vec()));
        let refused = |statement: Statement, name| statement.believe(Forum::Open(name), Roles::PURGE, NOW).unwrap_err();
        assert_eq!(refused(in_open(1, "net"), "other"), NotBelieved::Foreign);
        assert_eq!(refused(Statement { words: b"all".to_vec(), ..in_open(1, "net") }, "net"), NotBelieved::Foreign);
        assert_eq!(
            refused(Statement { issued: UnixTime(NOW.0 - 1), ..in_open(1, "net") }, "net"),
            NotBelieved::Foreign
        );
        let borrowed = Statement { signer: Signer::Key(key(2).1), ..in_open(1, "net") };
        assert_eq!(refused(borrowed, "net"), NotBelieved::Foreign);
        let early = in_open(1, "net").believe(Forum::Open("net"), Roles::PURGE, UnixTime(NOW.0 - 100_000));
        assert_eq!(early, Err(NotBelieved::Future));
    }

    #[test]
    fn a_closed_network_believes_members_with_the_right_that_were_not_revoked() {
        let network = NetworkKey::generate().unwrap();
        let days = |days: u64| Term::from(NOW, Duration::from_secs(days * 86_400));
        let admission = network.admission(Roles::PROXY.with(Roles::PURGE), days(90)).unwrap();
        let (secret, public) = key(3);
        let say = |roles| {
            let certificate = admission.admit(public, 7, roles, days(1)).unwrap();
            let own = Membership { network: network.network(), certificate };
            Statement::closed(&own, NOW, b"purge".to_vec(), |bytes| secret.sign(bytes).to_bytes())
        };
        let id = network.network();
        let none = Revocations::default();
        let believe = |statement: Statement, revocations, now| {
            statement.believe(Forum::Closed(&id, revocations), Roles::PURGE, now).map(|said| said.signer)
        };
        let may = Roles::PROXY.with(Roles::PURGE);
        assert_eq!(believe(say(may), &none, NOW), Ok(id.place(7, &public)));
        // Its certificate is over by now, and held when it signed.
        assert_eq!(believe(say(may), &none, NOW.plus(Duration::from_secs(20 * 86_400))), Ok(id.place(7, &public)));
        assert_eq!(believe(say(Roles::PROXY), &none, NOW), Err(NotBelieved::Right));
        assert_eq!(believe(in_open(1, "net"), &none, NOW), Err(NotBelieved::Foreign));
        let mut late = say(may);
        late.issued = NOW.plus(Duration::from_secs(2 * 86_400));
        assert!(matches!(
            believe(late, &none, NOW.plus(Duration::from_secs(3 * 86_400))),
            Err(NotBelieved::NotMember(_))
        ));
        let mut revoked = Revocations::new(Limits::default());
        revoked.add(&id, NOW, network.revoke(Revoked::Node { key: public, serial: 7 }, NOW)).unwrap();
        assert_eq!(believe(say(may), &revoked, NOW), Err(NotBelieved::NotMember(NotMember::Revoked)));
        let other = NetworkKey::generate().unwrap().network();
        let foreign = say(may).believe(Forum::Closed(&other, &none), Roles::PURGE, NOW);
        assert!(matches!(foreign, Err(NotBelieved::NotMember(NotMember::Foreign))));
    }

    #[test]
    fn foreign_bytes_are_refused_or_read_but_never_believed() {
        assert!(Statement::from_bytes(&[&MAGIC[..], &[9; 900]].concat()).is_err());
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            if let Ok(read) = Statement::from_bytes(&[&MAGIC[..], bytes].concat()) {
                assert_eq!(Statement::from_bytes(&read.to_bytes()), Ok(read.clone()));
                assert!(read.believe(Forum::Open("net"), Roles::PURGE, NOW).is_err());
            }
        });
    }
}
