//! What a node keeps for others: pointers that expire, leases, prefix hints and spread records.

mod copies;
mod grant;
mod hints;
mod lease;
mod newborn;
mod root;
mod spread;
mod values;

pub use self::grant::{Grant, Why};
pub(super) use self::{
    hints::Hints,
    lease::Leases,
    newborn::Newborn,
    root::{Asked, Deferred, Errand},
    spread::SpreadLog,
    values::{Intent, Values},
};
