//! Listening sockets: `[::]:PORT` takes IPv6 and IPv4 alike, whatever the node's `bindv6only` says, and means
//! `0.0.0.0:PORT` on nodes whose kernel has no IPv6.
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Binds an address; must be called inside a Tokio runtime.
///
/// # Errors
/// When the address cannot be used.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let every = address.is_ipv6() && address.ip().is_unspecified();
    match open(address, every) {
        Err(error) if every && without_ipv6(&error) => {
            tracing::info!("the node has no IPv6: listening on 0.0.0.0:{}", address.port());
            open((Ipv4Addr::UNSPECIFIED, address.port()).into(), false)
        }
        result => result,
    }
}

/// The errors of a kernel without IPv6: at the socket if it is compiled out, at the address if it is switched off.
fn without_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}

fn open(address: SocketAddr, both: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!both)?;
    }
    // A restarted container takes its port again while connections of its predecessor still end.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_takes_ipv4_and_where_there_is_one_ipv6() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let bound = listener.local_addr().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, bound.port())).unwrap();
        // Only a kernel without IPv6 may have fallen back.
        match std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
            Ok(_) => drop(TcpStream::connect((Ipv6Addr::LOCALHOST, bound.port())).unwrap()),
            Err(_) => assert!(bound.is_ipv4()),
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_and_no_reason_to_fall_back() {
        let first = bind("[::]:0".parse().unwrap()).unwrap();
        let again = bind(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_the_errors_of_a_kernel_without_ipv6_lead_to_ipv4() {
        for (errno, expected) in [
            (rustix::io::Errno::AFNOSUPPORT, true),
            (rustix::io::Errno::ADDRNOTAVAIL, true),
            (rustix::io::Errno::ADDRINUSE, false),
            (rustix::io::Errno::ACCESS, false),
        ] {
            assert_eq!(without_ipv6(&errno.into()), expected, "{errno}");
        }
    }
}
