//! The size of journal files. No I/O, no clock.
//!
//! Large files, 64 MiB and recycled, cost least when much is written. A small volume gets smaller files, because a few
//! almost empty ones would fill it. So does a volume that is nearly full, and a node with little to do.

use std::iter;

use crate::Space;

/// Minimum size of a file, unless the usual size is smaller.
pub(super) const MIN_FILE_BYTES: u64 = 1 << 20;
/// A file takes at most one in this many bytes of its volume. The journal has up to six files, including spares, and
/// the rest of the volume is for segments.
const VOLUME_SHARE: u64 = 16;
/// One in this many bytes of the volume stays free when a file is created: without space for a checkpoint, no file
/// could be retired.
const RESERVE_SHARE: u64 = 64;
/// Minimum of this reserve.
const MIN_RESERVE_BYTES: u64 = 256 << 10;
/// Maximum of this reserve.
const MAX_RESERVE_BYTES: u64 = 16 << 20;

/// With space for fewer files than this, publishers wait until files are retired.
pub(super) const COMFORT_FILES: u64 = 4;

/// The usual size of files on a volume, if `wanted` is their size on a large one.
pub(super) fn usual(wanted: u64, volume: Option<Space>) -> u64 {
    let Some(volume) = volume else { return wanted };
    let share = (volume.total_bytes / VOLUME_SHARE).max(1);
    let share = 1 << share.ilog2();
    share.clamp(least(wanted), wanted.max(1))
}

/// The smallest size of files, if `usual` is the usual one.
pub(super) fn least(usual: u64) -> u64 {
    MIN_FILE_BYTES.min(usual)
}

/// The sizes to try, in order, for a file of the size `first` that must hold `needed` bytes.
pub(super) fn attempts(first: u64, needed: u64) -> impl Iterator<Item = u64> {
    let smaller = move |&size: &u64| (size > needed && size / 2 >= least(first)).then_some(size / 2);
    iter::successors(Some(first), smaller).map(move |size| size.max(needed))
}

/// Whether a file may be created: it fits on the volume and leaves the reserve for a checkpoint.
pub(super) fn fits(bytes: u64, volume: Option<Space>) -> bool {
    let Some(volume) = volume else { return true };
    let reserve = (volume.total_bytes / RESERVE_SHARE).clamp(MIN_RESERVE_BYTES, MAX_RESERVE_BYTES);
    bytes.saturating_add(reserve) <= volume.available_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const USUAL: u64 = 64 * MIB;

    fn volume(total_mib: u64, available_mib: u64) -> Option<Space> {
        Some(Space { total_bytes: total_mib * MIB, available_bytes: available_mib * MIB })
    }

    #[test]
    fn file_size_follows_the_volume() {
        assert_eq!(usual(USUAL, None), USUAL);
        for (total_mib, expected_mib) in [
            (1 << 20, 64),
            (1024, 64),
            (1023, 32),
            (512, 32),
            (100, 4),
            (64, 4),
            (32, 2),
            (16, 1),
            (2, 1),
            (0, 1),
        ] {
            assert_eq!(usual(USUAL, volume(total_mib, 0)) / MIB, expected_mib, "{total_mib} MiB");
        }
        assert_eq!(usual(4096, volume(0, 0)), 4096, "never larger than wanted");
    }

    #[test]
    fn smaller_sizes_are_tried_down_to_the_needed_one() {
        let mib =
            |first, needed| attempts(first * MIB, needed * MIB).map(|size| size / MIB).collect::<Vec<_>>();
        assert_eq!(mib(64, 0), [64, 32, 16, 8, 4, 2, 1]);
        assert_eq!(mib(16, 5), [16, 8, 5]);
        assert_eq!(mib(1, 5), [5]);
        assert_eq!(attempts(4096, 100).collect::<Vec<_>>(), [4096]);
    }

    #[test]
    fn the_reserve_for_a_checkpoint_stays_free() {
        assert!(fits(u64::MAX, None));
        assert!(fits(MIB, volume(64, 2)) && !fits(2 * MIB, volume(64, 2)));
        assert!(fits(MIB - MIN_RESERVE_BYTES, volume(1, 1)) && !fits(MIB, volume(1, 1)));
        assert!(fits(64 * MIB, volume(1 << 20, 80)) && !fits(64 * MIB, volume(1 << 20, 79)));
    }
}
