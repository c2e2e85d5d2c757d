//! What RFC 9110, 9111, 9213 and 5861 ask of a shared cache, clause by clause, as far as it can be seen from outside: where every
//! host is one site, and where a site has a name to itself. What [`crate::fresh`] and [`crate::reuse`] hold already is not here.

mod conditions;
mod dates;
mod directives;
mod framing;
mod ranges;
mod requests;
mod selection;
mod stale;
mod status;
mod storing;
mod targeted;
mod validation;

const HOUR: &str = "Cache-Control: max-age=3600";
const MINUTE: &str = "Cache-Control: max-age=60";
const STALE: &str = "Age: 120";
const FUTURE: &str = "Expires: Thu, 18 Aug 2050 02:01:18 GMT";
const PAST: &str = "Expires: Thu, 18 Aug 2005 02:01:18 GMT";
const OLD: &str = "Last-Modified: Wed, 18 Aug 2010 02:01:18 GMT";
