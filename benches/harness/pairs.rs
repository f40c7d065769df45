// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the rounds of a row gave: medians, and how far they lie apart.

use super::Compare;

/// The rounds of a row, in the order in which they were measured.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    baselines: Vec<f64>,
    values: Vec<f64>,
}

impl Pairs {
    pub(super) fn push(&mut self, baseline: Option<f64>, value: f64) {
        self.baselines.extend(baseline);
        self.values.push(value);
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn value(&self) -> f64 {
        quantile(&self.values, 0.5)
    }

    pub(super) fn baseline(&self) -> Option<f64> {
        (!self.baselines.is_empty()).then(|| quantile(&self.baselines, 0.5))
    }

    /// The median of the pairs' own ratios, because what slows one half of a pair down mostly slows the other, too.
    pub(super) fn ratio(&self, compare: Compare) -> Option<f64> {
        self.baseline()?;
        Some(quantile(&self.ratios(compare), 0.5))
    }

    /// Interquartile range over the median, of the ratios where there is a baseline, of the values otherwise.
    pub(super) fn spread(&self, compare: Compare) -> f64 {
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
        self.baselines
            .iter()
            .zip(&self.values)
            .map(|(baseline, value)| match compare {
                Compare::SpeedUp => baseline / value,
                Compare::Cost => value / baseline,
            })
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
