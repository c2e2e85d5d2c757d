//! The front of `atoll manager` and `atoll peer`: their own listener before the node's proxy. It tells requests of clients from
//! requests to the program itself, holds the rate and the quota that the machine was lent with, and knows every download under
//! way and every one that ended.
//!
//! ```text
//!   client --> listen --gate--> desk (manager: redirect or serve; peer: serve) --> proxy --> meter --> client
//!                 |     \\--quick: what is plain, out of RAM or at once -----------------------^
//!                 \--/_atoll/--> control                                                      |
//!                                                                                  records, downloads, quota
//! ```
//!
//! Read [`listen::Desk`] first, then [`meter::Meter`].

pub(crate) mod amount;
pub(crate) mod ask;
pub(crate) mod begin;
pub(crate) mod body;
pub(crate) mod home;
pub(crate) mod listen;
pub(crate) mod meter;
pub(crate) mod node;
pub(crate) mod quick;
pub(crate) mod record;
pub(crate) mod service;
pub(crate) mod site;
pub(crate) mod stop;
pub(crate) mod tls;
