//! Rounds and what is kept of them. Contenders are measured in turn within each round, so that a machine that slows down slows
//! all of them; of the rounds the median stands.

/// Runs one measurement as many times as asked.
pub(crate) fn rounds(count: usize, mut measure: impl FnMut() -> f64) -> Vec<f64> {
    (0..count).map(|_| measure()).collect()
}

/// The middle figure; of an even number the lower of the two in the middle; not a number if there is none.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// A figure of which a share of the figures is no greater; not a number if there is none.
pub(crate) fn percentile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
    let place = (share * (figures.len().max(1) - 1) as f64).round() as usize;
    figures.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_figures() {
        let mut figures: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&mut figures, 0.5), percentile(&mut figures, 0.99)), (50.0, 99.0));
        assert!(percentile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }
}
