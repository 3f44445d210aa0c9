//! Pure: how near a consumer is to this node, for topology-aware delivery.

/// Region and zone of this node. A consumer sends its own in IDENTIFY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Empty if not set.
    pub region: String,
    /// Empty if not set.
    pub zone: String,
}

/// Nearest first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locality {
    /// In the node's zone.
    Zone,
    /// In the node's region.
    Region,
    /// Elsewhere or unknown. Without topology-aware delivery, every consumer is `Global`.
    #[default]
    Global,
}

impl Locality {
    /// Number of variants.
    pub const COUNT: usize = 3;
}

impl Location {
    /// Distance to a client in this region and zone. Names are compared exactly; an empty name matches nothing. Zones
    /// are compared without their regions, because zone names are unique across regions.
    pub fn locality(&self, region: &str, zone: &str) -> Locality {
        let is_same = |mine: &str, theirs: &str| !mine.is_empty() && mine == theirs;
        if is_same(&self.zone, zone) {
            Locality::Zone
        } else if is_same(&self.region, region) {
            Locality::Region
        } else {
            Locality::Global
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_nearer_than_region() {
        let here = Location { region: "r1".into(), zone: "z1".into() };
        assert_eq!(here.locality("r1", "z1"), Locality::Zone);
        assert_eq!(here.locality("r2", "z1"), Locality::Zone, "zones are not compared by region");
        assert_eq!(here.locality("r1", "z2"), Locality::Region);
        assert_eq!(here.locality("r1", ""), Locality::Region);
        assert_eq!(here.locality("R1", "Z1"), Locality::Global);
        assert_eq!(here.locality("", ""), Locality::Global);
        assert!(Locality::Zone < Locality::Region && Locality::Region < Locality::Global);
    }

    #[test]
    fn node_without_location_is_near_no_one() {
        let nowhere = Location { region: String::new(), zone: String::new() };
        assert_eq!(nowhere.locality("", ""), Locality::Global);
        assert_eq!(nowhere.locality("r1", "z1"), Locality::Global);
    }
}
