//! Lists of networks that addresses are held against.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks. The default holds no address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether an address is in one of them. A listener on `[::]` sees IPv4 addresses in their
    /// mapped form, so those are taken for what they are.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<IpNet>> for Networks {
    fn from(networks: Vec<IpNet>) -> Networks {
        Networks(networks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_in_the_networks_of_their_own_family() {
        let networks = Networks::from(vec!["10.0.0.0/8".parse().unwrap()]);
        for (address, inside) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.0.0.0", false), ("::1", false)]
        {
            assert_eq!(networks.contain(address.parse().unwrap()), inside, "{address}");
        }
        assert!(Networks::default().is_empty());
    }
}
