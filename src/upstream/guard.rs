//! Which addresses may be dialled.
//!
//! The judgement is made on the address that is dialled, after resolution, so a name that changes its mind between two
//! look-ups gains nothing. Public unicast addresses pass; everything else needs `allow_networks`; metadata services,
//! the unspecified address and Sidekey's own listeners never pass. An address that carries another one inside
//! (IPv4-mapped, NAT64, 6to4, Teredo, ISATAP) is judged by what it carries as well. Sources: RFC 6890 and the IANA
//! special-purpose registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

/// The addresses clouds answer credentials on. Refused even where their network is allowed.
const METADATA_V4: [Ipv4Addr; 9] = [
    Ipv4Addr::new(169, 254, 169, 254), // AWS, Azure, Google, Oracle, DigitalOcean, OpenStack and others
    Ipv4Addr::new(169, 254, 170, 2),   // AWS ECS task credentials
    Ipv4Addr::new(169, 254, 170, 23),  // AWS EKS pod identity
    Ipv4Addr::new(169, 254, 169, 253), // AWS resolver, answers from inside the network
    Ipv4Addr::new(169, 254, 42, 42),   // Scaleway
    Ipv4Addr::new(169, 254, 0, 23),    // Tencent
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba
    Ipv4Addr::new(168, 63, 129, 16),   // Azure wire server
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle, classic
];
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),   // AWS
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),    // AWS EKS pod identity
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),    // Google
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),     // Scaleway
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe), // OpenStack
];

/// Judges addresses by one configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard<'a> {
    /// Networks that pass although they are not public.
    pub(super) allow_networks: &'a [IpNet],
    /// Where Sidekey itself listens: a request through it to itself could go round for ever, or reach its admin.
    pub(super) own_listeners: &'a [SocketAddr],
}

impl Guard<'_> {
    /// Whether a connection to `address` may be opened.
    pub(super) fn permits(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        if never(ip) || self.is_own_listener(ip, address.port()) {
            return false;
        }
        is_public(ip) || self.allow_networks.iter().any(|network| network.contains(&ip))
    }

    fn is_own_listener(&self, ip: IpAddr, port: u16) -> bool {
        self.own_listeners.iter().any(|listener| {
            let bound = listener.ip().to_canonical();
            listener.port() == port && (bound == ip || (bound.is_unspecified() && is_local(ip)))
        })
    }
}

/// Whether the address belongs to this machine. Asked only where the port is one of our own: it costs a socket.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Refused whatever is allowed. `ip` is canonical.
fn never(ip: IpAddr) -> bool {
    match ip {
        // To connect to "any address" reaches this very machine.
        IpAddr::V4(v4) => v4.is_unspecified() || METADATA_V4.contains(&v4),
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || METADATA_V6.contains(&v6)
                || embedded(v6).into_iter().flatten().any(|inner| never(IpAddr::V4(inner)))
        }
    }
}

/// Whether the address is public unicast, together with what it carries. `ip` is canonical.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6) && embedded(v6).into_iter().flatten().all(is_public_v4),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let refused = a == 0                              // this network
        || ip.is_private()                            // 10/8, 172.16/12, 192.168/16
        || ip.is_loopback()                           // 127/8
        || ip.is_link_local()                         // 169.254/16
        || (a == 100 && (64..128).contains(&b))       // carrier-grade NAT, 100.64/10
        || (a == 192 && b == 0 && c == 0)             // protocol assignments
        || ip.is_documentation()                      // 192.0.2/24, 198.51.100/24, 203.0.113/24
        || (a == 192 && b == 88 && c == 99)           // 6to4 relays
        || (a == 198 && (b & 0xfe) == 18)             // benchmarks, 198.18/15
        || a >= 224; // multicast, reserved, broadcast
    !refused
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    if is_nat64(segments) {
        return true; // as public as what it carries
    }
    // Only 2000::/3 is handed out as global unicast; that leaves out loopback, IPv4-compatible, local-use NAT64,
    // discard-only, unique local, link-local, site-local, segment-routing and multicast addresses at once.
    let global_unicast = segments[0] & 0xe000 == 0x2000;
    let protocol_assignment = segments[0] == 0x2001 && segments[1] < 0x200 && !is_teredo(segments);
    let documentation =
        (segments[0] == 0x2001 && segments[1] == 0xdb8) || (segments[0] == 0x3fff && segments[1] < 0x1000);
    global_unicast && !protocol_assignment && !documentation
}

fn is_nat64(segments: [u16; 8]) -> bool {
    segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
}

fn is_teredo(segments: [u16; 8]) -> bool {
    segments[0] == 0x2001 && segments[1] == 0
}

/// The IPv4 addresses an IPv6 address carries by its form: at most two (Teredo names server and client).
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let segments = ip.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let tail = pair(segments[6], segments[7]);
    if is_teredo(segments) {
        return [Some(pair(segments[2], segments[3])), Some(pair(!segments[6], !segments[7]))];
    }
    let six_to_four = (segments[0] == 0x2002).then(|| pair(segments[1], segments[2]));
    let compatible = segments[..6] == [0; 6] || segments[..6] == [0, 0, 0, 0, 0, 0xffff];
    let local_nat64 = segments[0] == 0x64 && segments[1] == 0xff9b && segments[2] == 1;
    let isatap = segments[4] & !0x200 == 0 && segments[5] == 0x5efe;
    let at_the_end = compatible || local_nat64 || isatap || is_nat64(segments);
    [six_to_four, at_the_end.then_some(tail)]
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn guard<'a>(allow_networks: &'a [IpNet], own_listeners: &'a [SocketAddr]) -> Guard<'a> {
        Guard { allow_networks, own_listeners }
    }

    fn permits(guard: Guard<'_>, ip: &str) -> bool {
        guard.permits(SocketAddr::new(ip.parse().unwrap(), 443))
    }

    #[test]
    fn public_addresses_pass() {
        for ip in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert!(permits(guard(&[], &[]), ip), "{ip} was refused");
        }
    }

    #[test]
    fn special_addresses_are_refused_in_every_form() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::1.1.1.1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1.1.1.1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "3fff:fff::1",
            "2002:a00:1::1",
            "2002:7f00:1::1",
            "2001:0:a00:1::f5ff:fffe",
            "2001:0:101:101::f5ff:fffe",
            "2606:4700::5efe:10.0.0.1",
            "2606:4700::200:5efe:10.0.0.1",
            "5f00::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!permits(guard(&[], &[]), ip), "{ip} passed");
        }
    }

    #[test]
    fn an_allowed_network_opens_itself_only() {
        let allowed = ["10.1.0.0/16".parse().unwrap(), "fd12::/16".parse().unwrap()];
        let guard = guard(&allowed, &[]);
        assert!(permits(guard, "10.1.2.3") && permits(guard, "::ffff:10.1.2.3") && permits(guard, "fd12::1"));
        assert!(!permits(guard, "10.2.0.1") && !permits(guard, "fd13::1") && !permits(guard, "64:ff9b::10.1.2.3"));
    }

    #[test]
    fn metadata_services_are_refused_even_where_everything_is_allowed() {
        let allowed = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let guard = guard(&allowed, &[]);
        for ip in METADATA_V4 {
            let bits = u32::from(ip);
            for form in [
                ip.to_string(),
                format!("::ffff:{ip}"),
                format!("::{ip}"),
                format!("64:ff9b::{ip}"),
                format!("64:ff9b:1::{ip}"),
                format!("2002:{:x}:{:x}::1", bits >> 16, bits & 0xffff),
                format!("2001:0:{:x}:{:x}::1", bits >> 16, bits & 0xffff),
                format!("2001:0:101:101:0:0:{:x}:{:x}", !bits >> 16, !bits & 0xffff),
                format!("fe80::5efe:{ip}"),
            ] {
                assert!(!permits(guard, &form), "{form} passed");
            }
        }
        for ip in METADATA_V6 {
            assert!(!permits(guard, &ip.to_string()), "{ip} passed");
        }
        assert!(!permits(guard, "0.0.0.0") && !permits(guard, "::") && !permits(guard, "::ffff:0.0.0.0"));
        assert!(permits(guard, "127.0.0.1") && permits(guard, "192.168.0.1"), "the rest is open");
    }

    #[test]
    fn own_listeners_are_refused_under_all_their_addresses() {
        let allowed = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();

        let one = [at("127.0.0.1:8080")];
        let exact = guard(&allowed, &one);
        assert!(!exact.permits(at("127.0.0.1:8080")) && !exact.permits(at("[::ffff:127.0.0.1]:8080")));
        assert!(exact.permits(at("127.0.0.1:8081")) && exact.permits(at("127.0.0.2:8080")));

        for all in [at("0.0.0.0:8080"), at("[::]:8080")] {
            let all = [all];
            let wild = guard(&allowed, &all);
            for local in ["127.0.0.1:8080", "127.0.0.9:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
                assert!(!wild.permits(at(local)), "{local} passed");
            }
            assert!(wild.permits(at("127.0.0.1:8081")) && wild.permits(at("1.1.1.1:8080")));
        }
    }

    #[test]
    fn an_address_of_this_machine_that_is_not_loopback_is_local() {
        // The address the machine would use to reach the documentation network; nothing is sent.
        let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
        if probe.connect("192.0.2.1:9").is_err() {
            return; // no route: this machine has no such address
        }
        let own = probe.local_addr().unwrap().ip();
        assert!(TcpListener::bind((own, 0)).is_ok() && is_local(own));
        assert!(!is_local("192.0.2.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn wrapping_an_address_never_opens_it(bits in any::<u32>()) {
            let ip = Ipv4Addr::from(bits);
            let inner = permits(guard(&[], &[]), &ip.to_string());
            prop_assert_eq!(permits(guard(&[], &[]), &format!("::ffff:{ip}")), inner);
            prop_assert_eq!(permits(guard(&[], &[]), &format!("64:ff9b::{ip}")), inner);
            let six = format!("2002:{:x}:{:x}::1", bits >> 16, bits & 0xffff);
            prop_assert_eq!(permits(guard(&[], &[]), &six), inner);
            let teredo = format!("2001:0:101:101:0:0:{:x}:{:x}", (!bits >> 16) & 0xffff, !bits & 0xffff);
            prop_assert_eq!(permits(guard(&[], &[]), &teredo), inner);
        }

        #[test]
        fn nothing_outside_global_unicast_passes(bits in any::<u128>()) {
            let ip = Ipv6Addr::from(bits);
            if permits(guard(&[], &[]), &ip.to_string()) {
                let first = ip.segments()[0];
                let translated = is_nat64(ip.segments()) || ip.to_ipv4_mapped().is_some();
                prop_assert!(first & 0xe000 == 0x2000 || translated);
            }
        }
    }
}
