// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the rounds of a row gave: medians, and how far they lie apart.

use super::{Compare, Side, Skipped};

/// The rounds of a row, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Pairs {
    baselines: Vec<f64>,
    values: Vec<f64>,
}

/// Measures both sides in turns. The first `warm_up` rounds are not counted.
pub(super) fn take_turns(
    warm_up: usize,
    rounds: usize,
    mut baseline: Option<Side<'_>>,
    value: Side<'_>,
) -> Result<Pairs, Skipped> {
    let mut pairs = Pairs::default();
    for round in 0..warm_up + rounds {
        let (theirs, ours) = match &mut baseline {
            None => (None, value()?),
            Some(baseline) if round % 2 == 0 => {
                let ours = value()?;
                (Some(baseline()?), ours)
            }
            Some(baseline) => (Some(baseline()?), value()?),
        };
        if warm_up <= round {
            pairs.baselines.extend(theirs);
            pairs.values.push(ours);
        }
    }
    Ok(pairs)
}

impl Pairs {
    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The median.
    #[must_use]
    pub fn value(&self) -> f64 {
        quantile(&self.values, 0.5)
    }

    /// The median, if there is a baseline.
    #[must_use]
    pub fn baseline(&self) -> Option<f64> {
        (!self.baselines.is_empty()).then(|| quantile(&self.baselines, 0.5))
    }

    /// The median of the pairs' own ratios, because what slows one half of a pair down mostly slows the other, too.
    #[must_use]
    pub fn ratio(&self, compare: Compare) -> Option<f64> {
        self.baseline()?;
        Some(quantile(&self.ratios(compare), 0.5))
    }

    /// Interquartile range over the median, of the ratios where there is a baseline, of the values otherwise.
    #[must_use]
    pub fn spread(&self, compare: Compare) -> f64 {
        let ratios = self.ratios(compare);
        let numbers = if ratios.is_empty() {
            &self.values
        } else {
            &ratios
        };
        let range = quantile(numbers, 0.75) - quantile(numbers, 0.25);
        match quantile(numbers, 0.5) {
            // Counts that are mostly nothing.
            0.0 => range,
            median => range / median,
        }
    }

    fn ratios(&self, compare: Compare) -> Vec<f64> {
        let pairs = self.baselines.iter().zip(&self.values);
        pairs
            .map(|(baseline, value)| compare.ratio(*baseline, *value))
            .collect()
    }
}

/// The number below which `part` of all lie, between two of them by interpolation; NaN where there is none.
fn quantile(numbers: &[f64], part: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = part * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an index, between 0 and `last`"
    )]
    let below = place.floor() as usize;
    let above = sorted[(below + 1).min(last)];
    sorted[below] + (above - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_take_turns_and_the_warm_up_is_dropped() {
        let order = std::cell::RefCell::new(String::new());
        let note = |letter, number: f64| {
            order.borrow_mut().push(letter);
            Ok(number * order.borrow().len() as f64)
        };
        let mut baseline = || note('b', 10.0);
        let mut value = || note('v', 1.0);
        let pairs = take_turns(1, 2, Some(&mut baseline), &mut value);
        let pairs = pairs.map_err(|reason| reason.to_string());
        let pairs = pairs.unwrap();
        assert_eq!(*order.borrow(), "vbbvvb");
        assert_eq!(pairs.values, [4.0, 5.0]);
        assert_eq!(pairs.baselines, [30.0, 60.0]);
        assert_eq!(pairs.ratio(Compare::SpeedUp), Some(9.75));
    }

    #[test]
    fn ratios_say_what_the_comparison_is_about() {
        let table = [
            (Compare::SpeedUp, 10.0, 2.0, 5.0),
            (Compare::Cost, 10.0, 2.0, 0.2),
            (Compare::Rate, 10.0, 2.0, 0.2),
            (Compare::Limit, 10.0, 2.0, 0.2),
            (Compare::Same, 0.0, 0.0, 1.0),
            (Compare::Same, 4.0, 2.0, 0.5),
        ];
        for (compare, baseline, value, ratio) in table {
            assert_eq!(compare.ratio(baseline, value), ratio, "{compare:?}");
        }
    }

    #[test]
    fn medians_and_spread() {
        let pairs = Pairs {
            baselines: Vec::new(),
            values: vec![4.0, 1.0, 3.0, 2.0, 100.0],
        };
        assert_eq!((pairs.len(), pairs.value()), (5, 3.0));
        assert_eq!(pairs.baseline(), None);
        assert_eq!(pairs.spread(Compare::Cost), 2.0 / 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
