//! Who may join: tokens with their uses and ends, the peers they admitted, and those that were removed. Pure: told the time, and
//! written to the state directory by whoever holds it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    token::{Secret, Token, nonce},
    wire::{Join, is_name},
};

/// See the file's head. Times are seconds since the epoch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ledger {
    tokens: BTreeMap<String, Grant>,
    admitted: BTreeMap<String, Member>,
    removed: BTreeMap<String, Removed>,
    #[serde(skip)]
    nonces: VecDeque<(u64, String)>,
}

/// One token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Grant {
    /// The key it proves by, in hexadecimal digits.
    secret: String,
    /// Admissions left.
    uses: u32,
    /// When it ends.
    expires: u64,
    /// Why it admits nobody more, although uses are left.
    void: Option<String>,
}

/// One admitted peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    /// What it proves by when it comes again.
    credential: String,
    /// The token it came with.
    token: String,
    /// Its node's public key in the network.
    node: String,
    /// What places that node in the network; 0: none yet.
    #[serde(default)]
    serial: u64,
}

/// One removed peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Removed {
    why: String,
    node: String,
}

/// A peer that was let in.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The key of its session.
    pub(crate) session: Secret,
    /// It came for the first time.
    pub(crate) new: bool,
}

/// Why a peer was not let in. Each says what its operator can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request is none of ours.
    #[error("the request to join is malformed: {0}")]
    Malformed(&'static str),
    /// The nonce is not ours, was used, or is old.
    #[error("the challenge was used already or is too old; knock again")]
    Stale,
    /// No such token.
    #[error("wrong token: this manager gave out no such token")]
    WrongToken,
    /// All its uses are gone.
    #[error(
        "this token is spent: it has admitted as many machines as it was made for; ask the manager's operator for another"
    )]
    Spent,
    /// It ended.
    #[error("this token ended {ago} s ago; ask the manager's operator for another")]
    Expired {
        /// Seconds ago.
        ago: u64,
    },
    /// It admitted a peer that was removed since.
    #[error("this token admits nobody more: a machine that came with it was removed ({0})")]
    Void(String),
    /// This peer was removed.
    #[error("this machine was removed by the manager: {0}")]
    Removed(String),
    /// It says that it was here before, and was not.
    #[error("this machine was never admitted here; join with a token")]
    Unknown,
    /// There are too many peers.
    #[error("this manager has all the machines it can hold")]
    Full,
}

impl Ledger {
    /// Lets a token admit so many peers until then. The same token again changes its uses and end.
    pub(crate) fn grant(&mut self, token: &Token, uses: u32, expires: u64) {
        let secret = token.secret();
        let grant = Grant { secret: secret.to_hex(), uses, expires, void: None };
        self.tokens.insert(secret.id(), grant);
    }

    /// Whether a token of this text is known, however it stands.
    pub(crate) fn knows(&self, token: &Token) -> bool {
        self.tokens.contains_key(&token.secret().id())
    }

    /// A nonce, good once and for [`NONCE_LIFE`].
    pub(crate) fn challenge(&mut self, now: u64) -> String {
        self.nonces.retain(|(made, _)| made + NONCE_LIFE > now);
        if self.nonces.len() >= NONCES {
            self.nonces.pop_front();
        }
        let fresh = nonce();
        self.nonces.push_back((now, fresh.clone()));
        fresh
    }

    /// Uses a nonce up. False if it is none of ours, was used, or is old.
    pub(crate) fn take(&mut self, now: u64, nonce: &str) -> bool {
        let known = self.nonces.iter().position(|(made, known)| known == nonce && made + NONCE_LIFE > now);
        known.is_some_and(|at| self.nonces.remove(at).is_some())
    }

    /// Lets a peer in, or says why not.
    pub(crate) fn admit(&mut self, now: u64, join: &Join) -> Result<Admission, Refusal> {
        if !is_name(&join.peer) {
            return Err(Refusal::Malformed("a machine's name is 16 hexadecimal digits"));
        }
        if [&join.own_nonce, &join.node, &join.version, &join.advertise].iter().any(|text| text.len() > 256) {
            return Err(Refusal::Malformed("a field is too long"));
        }
        if !self.take(now, &join.nonce) {
            return Err(Refusal::Stale);
        }
        if join.token.is_empty() { self.admit_again(join) } else { self.admit_new(now, join) }
    }

    fn admit_again(&mut self, join: &Join) -> Result<Admission, Refusal> {
        // Whoever was removed is told so, once it has proved nothing: its name is no secret.
        if let Some(removed) = self.removed.get(&join.peer) {
            return Err(Refusal::Removed(removed.why.clone()));
        }
        let member = self.admitted.get_mut(&join.peer).ok_or(Refusal::Unknown)?;
        let credential = Secret::from_hex(&member.credential).filter(|credential| join.is_proved(credential));
        let credential = credential.ok_or(Refusal::Unknown)?;
        if member.node != join.node {
            member.node.clone_from(&join.node);
            member.serial = 0;
        }
        Ok(Admission { session: join.session(&credential), new: false })
    }

    fn admit_new(&mut self, now: u64, join: &Join) -> Result<Admission, Refusal> {
        let grant = self.tokens.get_mut(&join.token).ok_or(Refusal::WrongToken)?;
        let secret =
            Secret::from_hex(&grant.secret).filter(|secret| join.is_proved(secret)).ok_or(Refusal::WrongToken)?;
        if let Some(removed) = self.removed.get(&join.peer) {
            return Err(Refusal::Removed(removed.why.clone()));
        }
        if let Some(why) = &grant.void {
            return Err(Refusal::Void(why.clone()));
        }
        if grant.expires <= now {
            return Err(Refusal::Expired { ago: now - grant.expires });
        }
        // A peer that lost what it was given comes with its old name: only another one of the same token may be it.
        if self.admitted.get(&join.peer).is_some_and(|member| member.token != join.token) {
            return Err(Refusal::Malformed("this name belongs to another machine"));
        }
        if grant.uses == 0 {
            return Err(Refusal::Spent);
        }
        if self.admitted.len() >= MEMBERS {
            return Err(Refusal::Full);
        }
        grant.uses -= 1;
        let credential = join.credential(&secret).to_hex();
        let member = Member { credential, token: join.token.clone(), node: join.node.clone(), serial: 0 };
        self.admitted.insert(join.peer.clone(), member);
        Ok(Admission { session: join.session(&secret), new: true })
    }

    /// The serial of an admitted peer's node: what it had, or the fresh one if it has another key.
    pub(crate) fn serial(&mut self, peer: &str, node: &str, fresh: u64) -> u64 {
        let Some(member) = self.admitted.get_mut(peer) else { return fresh };
        if member.serial == 0 || member.node != node {
            node.clone_into(&mut member.node);
            member.serial = fresh;
        }
        member.serial
    }

    /// Removes a peer: it is let in no more, nor is anybody new with the token it came with. Its node's public key, if it was one.
    pub(crate) fn remove(&mut self, peer: &str, why: &str) -> Option<String> {
        let member = self.admitted.remove(peer)?;
        if let Some(grant) = self.tokens.get_mut(&member.token) {
            grant.void = Some(why.to_owned());
        }
        if self.removed.len() >= MEMBERS
            && let Some(first) = self.removed.keys().next().cloned()
        {
            self.removed.remove(&first);
        }
        self.removed.insert(peer.to_owned(), Removed { why: why.to_owned(), node: member.node.clone() });
        Some(member.node)
    }
}

/// Seconds a nonce is good for.
const NONCE_LIFE: u64 = 30;

/// Nonces that wait to be used; past it the oldest is forgotten, and whoever had it knocks again. `[guess]`
const NONCES: usize = 4_096;

/// Peers admitted, and as many removed ones remembered. `[guess]`
const MEMBERS: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;
    const TOKEN: &str = "correct-horse-battery-staple";

    fn ledger(uses: u32) -> (Ledger, Token) {
        let token = Token::parse(TOKEN).unwrap();
        let mut ledger = Ledger::default();
        ledger.grant(&token, uses, NOW + 100);
        (ledger, token)
    }

    fn join(ledger: &mut Ledger, secret: &Secret, peer: u64) -> Join {
        let nonce = ledger.challenge(NOW);
        let join = Join {
            token: secret.id(),
            peer: format!("{peer:016x}"),
            nonce,
            own_nonce: super::nonce(),
            ..Join::default()
        };
        join.prove(secret)
    }

    #[test]
    fn a_token_admits_as_many_as_it_was_made_for() {
        let (mut ledger, token) = ledger(2);
        for peer in 0..2 {
            let join = join(&mut ledger, &token.secret(), peer);
            assert!(ledger.admit(NOW, &join).unwrap().new);
        }
        let third = join(&mut ledger, &token.secret(), 2);
        assert_eq!(ledger.admit(NOW, &third).unwrap_err(), Refusal::Spent);
    }

    #[test]
    fn a_wrong_an_old_and_a_made_up_token_are_refused() {
        let (mut ledger, token) = ledger(2);
        let other = Token::parse("incorrect-horse-battery-staple").unwrap();
        let wrong = join(&mut ledger, &other.secret(), 1);
        assert_eq!(ledger.admit(NOW, &wrong).unwrap_err(), Refusal::WrongToken);
        // The id is no secret; it proves nothing.
        let guessed =
            Join { token: token.secret().id(), ..join(&mut ledger, &other.secret(), 1) }.prove(&other.secret());
        assert_eq!(ledger.admit(NOW, &guessed).unwrap_err(), Refusal::WrongToken);
        let nonce = ledger.challenge(NOW + 99);
        let late = Join { nonce, ..join(&mut ledger, &token.secret(), 1) }.prove(&token.secret());
        assert_eq!(ledger.admit(NOW + 110, &late).unwrap_err(), Refusal::Expired { ago: 10 });
    }

    #[test]
    fn a_request_to_join_serves_once_and_only_as_it_was_said() {
        let (mut ledger, token) = ledger(9);
        let first = join(&mut ledger, &token.secret(), 1);
        ledger.admit(NOW, &first).unwrap();
        assert_eq!(ledger.admit(NOW, &first).unwrap_err(), Refusal::Stale);
        let second = Join { advertise: "http://elsewhere:1".to_owned(), ..join(&mut ledger, &token.secret(), 2) };
        assert_eq!(ledger.admit(NOW, &second).unwrap_err(), Refusal::WrongToken);
        let old = join(&mut ledger, &token.secret(), 3);
        assert_eq!(ledger.admit(NOW + NONCE_LIFE, &old).unwrap_err(), Refusal::Stale);
    }

    #[test]
    fn an_admitted_peer_comes_again_without_the_token_also_after_the_managers_restart() {
        let (mut ledger, token) = ledger(1);
        let first = join(&mut ledger, &token.secret(), 1);
        ledger.admit(NOW, &first).unwrap();
        let credential = first.credential(&token.secret());
        let mut ledger: Ledger = serde_json::from_slice(&serde_json::to_vec(&ledger).unwrap()).unwrap();
        let again = |ledger: &mut Ledger, secret: &Secret| {
            let nonce = ledger.challenge(NOW);
            Join { token: String::new(), nonce, ..first.clone() }.prove(secret)
        };
        let join = again(&mut ledger, &credential);
        assert!(!ledger.admit(NOW + 9, &join).unwrap().new);
        // Who holds the same token does not pass for it.
        let thief = again(&mut ledger, &token.secret());
        assert_eq!(ledger.admit(NOW, &thief).unwrap_err(), Refusal::Unknown);
    }

    #[test]
    fn a_removed_peer_is_let_in_neither_by_name_nor_with_its_token() {
        let (mut ledger, token) = ledger(9);
        let first = join(&mut ledger, &token.secret(), 1);
        ledger.admit(NOW, &first).unwrap();
        let stays = join(&mut ledger, &token.secret(), 2);
        ledger.admit(NOW, &stays).unwrap();
        assert!(ledger.remove("0000000000000001", "it lied").is_some());
        let same = join(&mut ledger, &token.secret(), 1);
        assert_eq!(ledger.admit(NOW, &same).unwrap_err(), Refusal::Removed("it lied".to_owned()));
        let new_name = join(&mut ledger, &token.secret(), 3);
        assert_eq!(ledger.admit(NOW, &new_name).unwrap_err(), Refusal::Void("it lied".to_owned()));
        let nonce = ledger.challenge(NOW);
        let again = Join { token: String::new(), nonce, ..stays.clone() }.prove(&stays.credential(&token.secret()));
        assert!(ledger.admit(NOW, &again).is_ok(), "others of the token stay");
    }

    #[test]
    fn nonces_are_bounded() {
        let (mut ledger, token) = ledger(9);
        let first = join(&mut ledger, &token.secret(), 1);
        for _ in 0..NONCES {
            ledger.challenge(NOW);
        }
        assert_eq!(ledger.nonces.len(), NONCES);
        assert_eq!(ledger.admit(NOW, &first).unwrap_err(), Refusal::Stale);
    }
}
