//! Sets of processors as the kernel writes them: lists (`0-3,8`) and masks (`00000001,0000000f`).

/// The processors of a list such as `0-3,8`, ascending; `None` if it is not one.
pub(crate) fn from_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // No kernel has so many: a damaged file must not fill the memory.
        if last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// A list as the kernel writes it: runs are joined.
pub(crate) fn to_list(cpus: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < cpus.len() {
        let run = cpus[at..].windows(2).take_while(|pair| pair[1] == pair[0] + 1).count();
        parts.push(match run {
            0 => cpus[at].to_string(),
            _ => format!("{}-{}", cpus[at], cpus[at + run]),
        });
        at += run + 1;
    }
    parts.join(",")
}

/// The processors of a mask of 32-bit words, the highest first; `None` if it is not one.
pub(crate) fn from_mask(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for (index, word) in text.trim().split(',').rev().enumerate() {
        let bits = u32::from_str_radix(word.trim(), 16).ok()?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| index * 32 + bit));
    }
    Some(cpus)
}

/// A mask as the kernel takes it.
pub(crate) fn to_mask(cpus: &[usize]) -> String {
    let mut words = vec![0_u32; cpus.iter().max().map_or(1, |last| last / 32 + 1)];
    for cpu in cpus {
        words[cpu / 32] |= 1 << (cpu % 32);
    }
    let words: Vec<String> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_masks_of_the_kernel_are_read() {
        assert_eq!(from_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(from_list(""), Some(vec![]));
        assert_eq!(from_list("a-b"), None);
        assert_eq!(from_list("0-99999999"), None);
        assert_eq!(from_mask("00000001,80000000"), Some(vec![31, 32]));
        assert_eq!(from_mask("0"), Some(vec![]));
        assert_eq!(from_mask("xyz"), None);
        assert_eq!(to_list(&[0, 1, 2, 3, 8]), "0-3,8");
        assert_eq!(to_mask(&[]), "00000000");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(set in prop::collection::btree_set(0_usize..300, 0..40)) {
            let cpus: Vec<usize> = set.into_iter().collect();
            prop_assert_eq!(from_list(&to_list(&cpus)), Some(cpus.clone()));
            prop_assert_eq!(from_mask(&to_mask(&cpus)), Some(cpus));
        }
    }
}
