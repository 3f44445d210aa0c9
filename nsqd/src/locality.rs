//! Pure: how near a consumer is to this node, for topology-aware delivery.

/// Where this node is. A consumer tells its own region and zone in IDENTIFY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Region of this node; empty if it was not told.
    pub region: String,
    /// Zone of this node; empty if it was not told.
    pub zone: String,
}

/// Nearest first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locality {
    /// In the node's zone.
    Zone,
    /// In the node's region.
    Region,
    /// Elsewhere, or nobody knows where: without topology-aware delivery all are.
    #[default]
    Global,
}

impl Locality {
    /// How many there are.
    pub const COUNT: usize = 3;
}

impl Location {
    /// How near somebody is. Names are compared as they are; an empty one is no place. Zones are not compared by
    /// region: they are unique, or the same for whoever names them so.
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
    fn the_zone_is_nearer_than_the_region() {
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
    fn who_is_nowhere_has_nobody_near() {
        let nowhere = Location { region: String::new(), zone: String::new() };
        assert_eq!(nowhere.locality("", ""), Locality::Global);
        assert_eq!(nowhere.locality("r1", "z1"), Locality::Global);
    }
}
