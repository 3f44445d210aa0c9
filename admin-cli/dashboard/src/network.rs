//! Networks in CIDR notation: who may use `/config`, and which proxies are trusted. Pure.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// An address and the number of its bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// The text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network; write ADDRESS/BITS, such as 10.0.0.0/8 or fd00::/8")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let bits: u8 = bits.parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits > most {
            return Err(invalid());
        }
        Ok(Network { address, bits })
    }
}

impl Network {
    /// Whether the address is in the network. An IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((ours, is_v4), (theirs, other_is_v4)) = (bits(self.address), bits(address.to_canonical()));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
        is_v4 == other_is_v4 && ours & mask == theirs & mask
    }

    /// Loopback and private networks: the proxies that are trusted by default.
    pub fn private() -> Vec<Network> {
        const V4: [([u8; 4], u8); 4] =
            [([127, 0, 0, 0], 8), ([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16)];
        let v4 = V4.map(|(address, bits)| Network { address: IpAddr::from(address), bits });
        let v6 = [
            Network { address: Ipv6Addr::LOCALHOST.into(), bits: 128 },
            Network { address: Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), bits: 7 },
        ];
        v4.into_iter().chain(v6).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        for (network, inside, outside) in [
            ("127.0.0.1/8", "127.9.9.9", "128.0.0.1"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("127.0.0.1/8", "::ffff:127.0.0.1", "::1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network} {outside}");
        }
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn private_networks_do_not_contain_public_addresses() {
        let contains = |text: &str| Network::private().iter().any(|n| n.contains(text.parse().unwrap()));
        assert!(
            ["127.0.0.1", "10.2.3.4", "172.20.0.1", "192.168.1.1", "::1", "fd00::2"]
                .into_iter()
                .all(contains)
        );
        assert!(!["8.8.8.8", "172.32.0.1", "2001:db8::1"].into_iter().any(contains));
    }
}
