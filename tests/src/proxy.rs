//! A network that fails when it is told to.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

/// Carries TCP connections to an address, until it cuts them or lets everything vanish.
#[derive(Clone, Debug)]
pub struct Proxy {
    port: u16,
    target: Arc<Mutex<SocketAddr>>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    /// Whether what the connections of now carry is lost.
    swallows: Arc<Mutex<Arc<AtomicBool>>>,
    /// Whether nothing is carried to the clients for the time being.
    held: Arc<(Mutex<bool>, Condvar)>,
    /// After how many bytes to the client the next connection is cut.
    cut_after: Arc<Mutex<Option<usize>>>,
}

impl Proxy {
    /// Starts one in front of the server in this URL.
    ///
    /// # Panics
    /// If the system has no port for it, or the URL no port.
    pub fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let target = Arc::new(Mutex::new(address_of(url)));
        let proxy = Self {
            port,
            target,
            streams: Arc::default(),
            swallows: Arc::default(),
            held: Arc::default(),
            cut_after: Arc::default(),
        };
        let carrier = proxy.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let target = *carrier.target.lock().unwrap_or_else(PoisonError::into_inner);
                let Ok(far) = TcpStream::connect(target) else { continue };
                // A network holds nothing back to make longer packets.
                for stream in [&near, &far] {
                    let _ = stream.set_nodelay(true);
                }
                let cut_after = carrier.cut_after.lock().unwrap_or_else(PoisonError::into_inner).take();
                carrier.carry(&near, &far, false, usize::MAX);
                carrier.carry(&far, &near, true, cut_after.unwrap_or(usize::MAX));
                carrier.streams.lock().unwrap_or_else(PoisonError::into_inner).extend([near, far]);
            }
        });
        proxy
    }

    fn carry(&self, from: &TcpStream, to: &TcpStream, holds: bool, mut left: usize) {
        let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
        let (swallows, held) = (self.swallows(), Arc::clone(&self.held));
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                if holds {
                    let guard = held.0.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(held.1.wait_while(guard, |held| *held));
                }
                let carried = len.min(left);
                left -= carried;
                if !swallows.load(Ordering::Relaxed) && to.write_all(&buffer[..carried]).is_err() {
                    return;
                }
                if left == 0 {
                    for stream in [&from, &to] {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    return;
                }
            }
            if !swallows.load(Ordering::Relaxed) {
                // It may be closed already.
                let _ = to.shutdown(Shutdown::Write);
            }
        });
    }

    /// The same URL, by way of this proxy.
    ///
    /// # Panics
    /// If the URL has no port.
    pub fn url(&self, url: &str) -> String {
        url.replacen(&format!(":{}/", port_of(url)), &format!(":{}/", self.port), 1)
    }

    /// Carries new connections to the server in another URL.
    ///
    /// # Panics
    /// If the URL has no port.
    pub fn redirect(&self, url: &str) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = address_of(url);
    }

    /// Ends every connection, at both ends, in the middle of what it carries.
    pub fn cut(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Cuts the next connection once it has carried so many bytes to the client.
    pub fn cut_next_after(&self, bytes: usize) {
        *self.cut_after.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// Takes nothing more from the server, as a client that does not read.
    pub fn hold(&self) {
        *self.held.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Goes on after [`hold`](Self::hold).
    pub fn release(&self) {
        *self.held.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.held.1.notify_all();
    }

    fn swallows(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.swallows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on nothing arrives, and no end is told: as if the cable were out.
    pub fn swallow(&self) {
        self.swallows().store(true, Ordering::Relaxed);
    }

    /// Carries new connections after [`swallow`](Self::swallow). Those of before stay as they are.
    pub fn recover(&self) {
        *self.swallows.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }
}

fn address_of(url: &str) -> SocketAddr {
    ([127, 0, 0, 1], port_of(url)).into()
}

/// A URL at which nobody listens. Its port is never free again, so that no server of another test listens there.
///
/// # Panics
/// If the system has no port for it.
pub fn nobody() -> String {
    static TAKEN: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address =
        SocketAddr::try_from(getsockname(&socket).expect("an address")).expect("an Internet address");
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    format!("chan://localhost:{}/nobody", address.port())
}

/// The port in a URL.
///
/// # Panics
/// If it has none.
pub fn port_of(url: &str) -> u16 {
    let port = url.split('/').nth(2).and_then(|authority| authority.rsplit(':').next());
    port.and_then(|port| port.parse().ok()).expect("a URL with a port")
}
