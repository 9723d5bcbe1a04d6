//! Three network namespaces: the public side is that of this program, `office` has the services and no public address, and
//! `nat` is between them and lets connections out only.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use super::broken;
use crate::{Running, forwards::succeed};

/// Addresses for measurements (RFC 2544).
const PUBLIC: &str = "198.18.0.1";
const NAT_OUTSIDE: &str = "198.18.0.2";
const NAT_INSIDE: &str = "198.18.1.1";
const OFFICE: &str = "198.18.1.2";

/// Namespaces and cables, which go with this value.
pub(super) struct Network {
    id: u32,
}

impl Network {
    pub(super) fn new() -> io::Result<Self> {
        let this = Self { id: std::process::id() % 100_000 };
        let Self { id } = this;
        let (nat, office) = (this.name("nat"), this.name("office"));
        for name in [&nat, &office] {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let cables = [
            (format!("cp{id}"), format!("cn{id}"), None, PUBLIC, NAT_OUTSIDE, &nat),
            (format!("ci{id}"), format!("co{id}"), Some(&nat), NAT_INSIDE, OFFICE, &office),
        ];
        for (near, far, near_space, near_address, far_address, far_space) in cables {
            ip(&["link", "add", &near, "type", "veth", "peer", "name", &far])?;
            if let Some(space) = near_space {
                ip(&["link", "set", &near, "netns", space])?;
            }
            ip(&["link", "set", &far, "netns", far_space])?;
            let near_ip = near_space.map_or_else(Vec::new, |space| vec!["-n", space]);
            let far_ip = vec!["-n", far_space];
            for (prefix, link, address) in [(near_ip, &near, near_address), (far_ip, &far, far_address)] {
                ip(&[&prefix[..], &["addr", "add", &format!("{address}/30"), "dev", link]].concat())?;
                ip(&[&prefix[..], &["link", "set", link, "up"]].concat())?;
            }
        }
        ip(&["-n", &office, "route", "add", "default", "via", NAT_INSIDE])?;
        let rules = format!(
            "echo 1 > /proc/sys/net/ipv4/ip_forward && nft -f - <<'END'\n\
             table ip nat {{\n\
               chain out {{ type nat hook postrouting priority 100; oifname \"cn{id}\" masquerade; }}\n\
               chain in {{ type filter hook forward priority 0; iifname \"cn{id}\" ct state new drop; }}\n\
             }}\nEND"
        );
        succeed(Command::new("ip").args(["netns", "exec", &nat, "sh", "-c", &rules]))?;
        Ok(this)
    }

    pub(super) const fn public(&self) -> &'static str {
        PUBLIC
    }

    fn name(&self, space: &str) -> String {
        format!("chan-{space}-{}", self.id)
    }

    /// A program on the machine behind NAT.
    pub(super) fn office(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name("office")]).arg(program);
        command
    }

    /// Takes the cable of the machine behind NAT out, or puts it in. Packets are lost, and no end is told.
    pub(super) fn cable(&self, is_in: bool) -> io::Result<()> {
        let rule = if is_in {
            "nft delete table ip cut".to_owned()
        } else {
            "nft 'add table ip cut; add chain ip cut every { type filter hook forward priority -10; policy drop; }'"
                .to_owned()
        };
        succeed(Command::new("ip").args(["netns", "exec", &self.name("nat"), "sh", "-c", &rule]))
    }

    /// Checks that nobody reaches the machine from outside.
    pub(super) fn assert_no_way_in(&self) -> io::Result<String> {
        let listener = format!(
            "import socket; s=socket.socket(); s.bind(('{OFFICE}', 7)); s.listen(); print('up', flush=True); s.accept()"
        );
        let mut python = self.office(Path::new("python3"));
        python.args(["-c", &listener]);
        let python = Running::start(python);
        python.out.wait("up", |line| line == "up");
        // A route that a client on the public side does not have; the NAT drops what comes by it.
        ip(&["route", "add", &format!("{OFFICE}/32"), "via", NAT_OUTSIDE])?;
        let address: SocketAddr = format!("{OFFICE}:7").parse().map_err(io::Error::other)?;
        let reached = TcpStream::connect_timeout(&address, Duration::from_secs(2));
        ip(&["route", "del", &format!("{OFFICE}/32")])?;
        match reached {
            Ok(_) => Err(broken("the machine behind NAT was reached from outside")),
            Err(error) => Ok(format!("network: a connection to the machine behind NAT fails: {error}")),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in ["office", "nat"] {
            let _ = ip(&["netns", "del", &self.name(space)]);
        }
        // The cable goes with its other end.
        let _ = ip(&["link", "del", &format!("cp{}", self.id)]);
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    succeed(Command::new("ip").args(arguments))
}
