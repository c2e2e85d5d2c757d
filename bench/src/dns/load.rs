//! The load: questions for 10,000 names in random order, from a few sockets, on one core.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// What a closed loop reached.
pub(super) struct Closed {
    pub(super) answers: f64,
    pub(super) seconds: f64,
}

/// Keeps so many questions under way as fast as answers come.
pub(super) fn closed(address: SocketAddr, span: Duration) -> Result<Closed, String> {
    closed_with(address, span, &mut Names::new())
}

/// The same with questions of one's own.
pub(super) fn closed_with(address: SocketAddr, span: Duration, names: &mut Names) -> Result<Closed, String> {
    let sockets = sockets(address)?;
    let (began, mut answers) = (Instant::now(), 0_u32);
    let mut buffer = [0; 2048];
    while began.elapsed() < span {
        for socket in &sockets {
            for _ in 0..WINDOW {
                let _ = socket.send(names.next());
            }
        }
        for socket in &sockets {
            for _ in 0..WINDOW {
                // A lost one ends the burst: the next one makes up for it.
                if receive(socket, &mut buffer).is_none() {
                    break;
                }
                answers += 1;
            }
        }
    }
    if answers == 0 {
        return Err(format!("no answer from {address}"));
    }
    Ok(Closed { answers: f64::from(answers), seconds: began.elapsed().as_secs_f64() })
}

/// Sends at a rate, whatever comes back, and tells the time from when each question was due to its answer, in microseconds.
pub(super) fn open(address: SocketAddr, rate: f64, span: Duration) -> Result<Vec<f64>, String> {
    let sockets = sockets(address)?;
    for socket in &sockets {
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
    }
    let mut names = Names::new();
    let gap = Duration::from_secs_f64(1.0 / rate);
    let mut due_at = vec![Instant::now(); 1 << 16];
    let mut latencies = Vec::new();
    let mut buffer = [0; 2048];
    let began = Instant::now();
    let (mut due, mut number) = (began, 0_u16);
    while began.elapsed() < span {
        while Instant::now() >= due {
            let which = usize::from(number) % sockets.len();
            if let (Some(socket), Some(slot)) = (sockets.get(which), due_at.get_mut(usize::from(number))) {
                *slot = due;
                let _ = socket.send(names.next_as(number));
            }
            number = number.wrapping_add(1);
            due += gap;
        }
        for socket in &sockets {
            while let Some(id) = receive(socket, &mut buffer) {
                if let Some(due) = due_at.get(usize::from(id)) {
                    latencies.push(due.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
    }
    if latencies.is_empty() { Err(format!("no answer from {address}")) } else { Ok(latencies) }
}

/// Asks for so many names that nobody asked for before.
pub(super) fn random(address: SocketAddr, count: u32) -> Result<(), String> {
    let sockets = sockets(address)?;
    let mut buffer = [0; 2048];
    let mut asked = 0;
    while asked < count {
        for socket in &sockets {
            for number in asked..asked + WINDOW {
                let host = number.wrapping_mul(0x9e37_79b9);
                let _ = socket.send(&question(&format!("r{host:08x}.random{number}.com"), 0));
            }
            asked += WINDOW;
            for _ in 0..WINDOW {
                // A lost one ends the burst.
                if receive(socket, &mut buffer).is_none() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Asks once from so many prefixes each, one after the other, 1,000 a second, and tells how long each answer took in microseconds.
pub(super) fn strangers(address: SocketAddr, count: u16) -> Result<Vec<f64>, String> {
    let mut latencies = Vec::new();
    let mut buffer = [0; 2048];
    let mut due = Instant::now();
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        // The whole of 127/8 is this machine; 127.0 is left to others.
        let from = Ipv4Addr::new(127, 1 + high, low, 1);
        let socket = UdpSocket::bind((from, 0)).map_err(|error| format!("{from}: {error}"))?;
        socket.connect(address).map_err(|error| format!("{address}: {error}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(|error| error.to_string())?;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += Duration::from_millis(1);
        let asked = Instant::now();
        let _ = socket.send(&question(&format!("www.site{number}.com"), 1));
        receive(&socket, &mut buffer).ok_or_else(|| format!("no answer to {from}"))?;
        latencies.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(latencies)
}

/// The same 10,000 questions, drawn at random.
pub(super) struct Names {
    questions: Vec<Vec<u8>>,
    state: u64,
}

impl Names {
    pub(super) fn new() -> Self {
        let questions = (0..10_000).map(|number| question(&format!("www.site{number}.com"), 0)).collect();
        Self { questions, state: 0x2545_f491_4f6c_dd1d }
    }

    /// Questions that want signatures: the same, or for so many names that do not exist that each denial is signed anew.
    pub(super) fn signed(denied: bool) -> Self {
        let name = |number: u32| if denied { format!("n{number}.ns1") } else { format!("www.site{number}.com") };
        let count = if denied { 200_000 } else { 10_000 };
        let wanting = |number| {
            let mut bytes = question(&name(number), 0);
            let flags = bytes.len() - 4;
            bytes.iter_mut().skip(flags).take(1).for_each(|byte| *byte = 0x80);
            bytes
        };
        Self { questions: (0..count).map(wanting).collect(), state: 0x2545_f491_4f6c_dd1d }
    }

    fn next(&mut self) -> &[u8] {
        self.next_as(0)
    }

    fn next_as(&mut self, id: u16) -> &[u8] {
        // Xorshift: the generator must cost less than what it asks.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let at = usize::try_from(self.state).unwrap_or(usize::MAX) % self.questions.len();
        let Some(question) = self.questions.get_mut(at) else { return &[] };
        if let Some(first) = question.first_chunk_mut::<2>() {
            *first = id.to_be_bytes();
        }
        question
    }
}

/// A question for A under the zone, with EDNS.
pub(super) fn question(name: &str, id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    let name = if name.ends_with("nyud.example") { name.to_owned() } else { format!("{name}.nyud.example") };
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// The id of an answer that gives at least one record; none if nothing, or nothing good, came in time.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<u16> {
    let length = socket.recv(buffer).ok()?;
    match buffer.get(..length)? {
        [id0, id1, _, code, _, _, _, answers, _, authority, ..] if code & 15 == 0 && *answers | *authority > 0 => {
            Some(u16::from_be_bytes([*id0, *id1]))
        }
        _ => None,
    }
}

fn sockets(address: SocketAddr) -> Result<Vec<UdpSocket>, String> {
    let open = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(socket)
    };
    (0..SOCKETS).map(|_| open().map_err(|error| format!("{address}: {error}"))).collect()
}

const SOCKETS: usize = 4;
/// Questions under way on one socket.
const WINDOW: u32 = 32;
