//! What a front with listeners of its own decides of a plain request before any parser sees it: that it be answered out of RAM as the
//! listeners do, or at once with bytes of the front's own. A front stands before one site, whatever host its clients name.

/// A plain request: a GET of a path, with no field that changes what is answered.
#[derive(Debug, Clone, Copy)]
pub struct PlainRequest<'r> {
    /// Path and query, of printable characters.
    pub target: &'r str,
    /// The value of User-Agent.
    pub agent: Option<&'r str>,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// Answered out of RAM if a fresh copy lies there; else as [`Self::Later`].
    Stored,
    /// Answered by the head that was written; it has no body.
    Told,
    /// Whatever comes of it behind the parser.
    Later,
}

/// A front's side of one connection.
pub trait Front: Send {
    /// Decides, and for [`Early::Told`] writes a whole head to `head`, which is empty.
    fn decide(&mut self, asked: PlainRequest<'_>, head: &mut Vec<u8>) -> Early;

    /// The answer out of RAM to what was decided last begins: a body of so many bytes.
    fn begins(&mut self, asked: PlainRequest<'_>, body: u64);

    /// So many more bytes of that body have left; said after each write, also of a head alone.
    fn sent(&mut self, bytes: u64);
}

/// A front and its site.
pub struct Ahead {
    /// The site's name in the configuration.
    pub host: String,
    /// What stands before each path there: "" or `/dir`.
    pub base: String,
    /// Who decides.
    pub front: Box<dyn Front>,
}
