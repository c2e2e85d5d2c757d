//! DNSSEC, signed as answers are made (RFC 4034, 4035; ECDSA P-256, RFC 6605): the zone's one key, what an answer must prove
//! (RFC 9824, compact denial of existence), the signatures with their bounds.
//!
//! ```text
//!   answer.rs, chain.rs --Answer--> signing.rs --> proofs.rs --with NSEC, DS--> signer.rs --with RRSIG--> reply.rs
//!                                                  extent.rs, nsec.rs           key.rs
//! ```
//!
//! Read [`Signer`] first.

mod settings;
pub use settings::Dnssec;

mod key;
pub use key::{ZoneKey, ZoneKeyError};

mod signer;
pub(crate) use signer::{Occasion, Signer};

mod signing;
pub(crate) use signing::Signing;

mod proofs;
pub(crate) use proofs::Asked;

mod extent;
mod nsec;
