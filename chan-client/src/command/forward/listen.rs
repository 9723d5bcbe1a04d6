//! The listeners of `forward`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::TcpListener;

use crate::command::failure::Failure;

/// The attempts to find a port that is free on both loopback addresses.
const PORT_ATTEMPTS: usize = 16;

/// Binds the listeners. A port alone is bound on loopback only, because everybody who can connect can use the service. It
/// is bound on both loopback addresses, because programs use either for `localhost`.
pub(super) async fn bind(listen: &str) -> Result<Vec<TcpListener>, Failure> {
    let cannot = |at: &str, error: io::Error| {
        Failure::usage(format_args!("cannot listen on {at}: {error}; name a free port, or ADDRESS:PORT"))
    };
    let Ok(wanted) = listen.parse::<u16>() else {
        return Ok(vec![TcpListener::bind(listen).await.map_err(|error| cannot(listen, error))?]);
    };
    let mut attempts = PORT_ATTEMPTS;
    loop {
        let four = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted));
        let four = four.await.map_err(|error| cannot(&format!("127.0.0.1:{wanted}"), error))?;
        let port = four.local_addr()?.port();
        attempts -= 1;
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
            Ok(six) => return Ok(vec![four, six]),
            Err(error) if without_ipv6(&error) => return Ok(vec![four]),
            Err(_) if wanted == 0 && attempts > 0 => {}
            Err(error) => return Err(cannot(&format!("[::1]:{port}"), error)),
        }
    }
}

fn without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_alone_binds_both_loopback_addresses() {
        let listeners = bind("0").await.unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        for listener in &listeners {
            assert!(listener.local_addr().unwrap().ip().is_loopback());
            assert_eq!(listener.local_addr().unwrap().port(), port);
        }
        let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
        assert_eq!(listeners.len(), 1 + usize::from(has_ipv6));
    }

    #[tokio::test]
    async fn names_the_address_that_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = bind(&port.to_string()).await.unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(
            failure.to_string().starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")),
            "{failure}"
        );
        assert!(bind("[::]:0").await.is_ok() || bind("0.0.0.0:0").await.is_ok());
        assert_eq!(bind("nonsense").await.unwrap_err().exit_code(), 2);
    }
}
