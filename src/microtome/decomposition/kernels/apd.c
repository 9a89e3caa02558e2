/* APD on networks x -> relu(x P_0 P_1 .. P_{L-1} + bias): attributions, top-k selection and the top-k pass.
 * Inputs are sparse (few features are on in a sample) and so are the outputs behind the ReLU and the mask; the
 * loops visit what is not zero. Included twice by itself: for float and for double. */

#ifndef REAL

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REAL float
#define KEY uint32_t
#define NAME(name) name##_float
#include __FILE__
#undef REAL
#undef KEY
#undef NAME
#define REAL double
#define KEY uint64_t
#define NAME(name) name##_double
#include __FILE__

#else

static int NAME(active)(const REAL *x, int n, int *index)
{
    int count = 0;
    for (int j = 0; j < n; j++) {
        index[count] = j;
        count += x[j] != 0;
    }
    return count;
}

static void NAME(rows_sum)(const REAL *x, const int *index, int count, const REAL *matrix, int width,
                           const REAL *start, REAL *restrict out)
{
    memcpy(out, start, width * sizeof(REAL));
    for (int a = 0; a < count; a++) {
        const REAL value = x[index[a]];
        const REAL *restrict row = matrix + (size_t)index[a] * width;
        for (int o = 0; o < width; o++)
            out[o] += value * row[o];
    }
}

/* x [K,B,n]; whole [K,n,o]: product of the target's weights; gating [K,n,o]: of the network whose ReLU gates the
 * attributions; bias [K,o]; maps [K,n,o,C]: sum over sites of (before) P_{c,l} (after).
 * -> target [K,B,o] (rows of zero inputs untouched), scores [K,B,C]. Returns 0, or 1 without memory. */
int NAME(apd_attributions)(int K, int B, int n, int o, int C, const REAL *x, const REAL *whole, const REAL *gating,
                           const REAL *bias, const REAL *maps, REAL *target, REAL *scores)
{
    int *index = malloc((size_t)(n + o) * sizeof(int));
    REAL *scratch = malloc((size_t)(o + C) * sizeof(REAL));
    if (!index || !scratch) {
        free(index);
        free(scratch);
        return 1;
    }
    int *open = index + n;
    REAL *gate = scratch, *restrict sum = scratch + o;
    memset(scores, 0, (size_t)K * B * C * sizeof(REAL));
    for (int k = 0; k < K; k++) {
        const REAL *map = maps + (size_t)k * n * o * C;
        const size_t at = (size_t)k * n * o;
        for (int b = 0; b < B; b++) {
            const REAL *row = x + ((size_t)k * B + b) * n;
            const int count = NAME(active)(row, n, index);
            if (!count)
                continue;
            REAL *restrict out = target + ((size_t)k * B + b) * o;
            REAL *restrict score = scores + ((size_t)k * B + b) * C;
            NAME(rows_sum)(row, index, count, whole + at, o, bias + (size_t)k * o, out);
            const REAL *pre = out;
            if (gating != whole) {
                NAME(rows_sum)(row, index, count, gating + at, o, bias + (size_t)k * o, gate);
                pre = gate;
            }
            int n_open = 0;
            for (int i = 0; i < o; i++) {
                open[n_open] = i;
                n_open += !(pre[i] <= 0); /* NaN passes on */
            }
            for (int i = 0; i < o; i++)
                out[i] = out[i] <= 0 ? 0 : out[i];
            for (int i = 0; i < n_open; i++) {
                const REAL *column = map + (size_t)open[i] * C;
                memset(sum, 0, C * sizeof(REAL));
                for (int a = 0; a < count; a++) {
                    const REAL value = row[index[a]];
                    const REAL *restrict part = column + (size_t)index[a] * o * C;
                    for (int c = 0; c < C; c++)
                        sum[c] += value * part[c];
                }
                for (int c = 0; c < C; c++)
                    score[c] += sum[c] * sum[c];
            }
        }
    }
    free(index);
    free(scratch);
    return 0;
}

static KEY NAME(key)(REAL value)
{
    KEY bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The count-th largest of n non-negative scores, by radix over the bits of the floats. */
static KEY NAME(threshold)(const REAL *scores, int64_t n, int64_t count, KEY *left)
{
    const int bits = 8 * (int)sizeof(KEY);
    int64_t histogram[2048], n_left = n;
    KEY prefix = 0;
    int shift = bits, width = 0;
    for (int first = 1; shift > 0; first = 0) {
        width = shift < 11 ? shift : 11;
        shift -= width;
        const KEY low = ((KEY)1 << width) - 1;
        memset(histogram, 0, sizeof histogram);
        if (first)
            for (int64_t i = 0; i < n; i++)
                histogram[NAME(key)(scores[i]) >> shift]++;
        else
            for (int64_t i = 0; i < n_left; i++)
                histogram[(left[i] >> shift) & low]++;
        KEY bucket = low;
        while (histogram[bucket] < count)
            count -= histogram[bucket--];
        prefix = (prefix << width) | bucket;
        int64_t kept = 0;
        if (first)
            for (int64_t i = 0; i < n; i++) {
                left[kept] = NAME(key)(scores[i]);
                kept += (left[kept] >> shift) == bucket;
            }
        else
            for (int64_t i = 0; i < n_left; i++) {
                left[kept] = left[i];
                kept += ((left[i] >> shift) & low) == bucket;
            }
        n_left = kept;
    }
    return prefix;
}

/* Marks the counts[r] largest of each of R rows of n scores, of equals the first ones. Returns 0, or 1. */
int NAME(apd_select)(int64_t R, int64_t n, const int64_t *counts, const REAL *scores, uint8_t *mask)
{
    KEY *left = malloc((size_t)(n + 1) * sizeof(KEY));
    if (!left)
        return 1;
    for (int64_t r = 0; r < R; r++) {
        const REAL *row = scores + r * n;
        uint8_t *restrict marked = mask + r * n;
        const int64_t count = counts[r] < n ? counts[r] : n;
        if (count <= 0) {
            memset(marked, 0, (size_t)n);
            continue;
        }
        const KEY limit = NAME(threshold)(row, n, count, left);
        int64_t above = 0;
        for (int64_t i = 0; i < n; i++) {
            marked[i] = NAME(key)(row[i]) > limit;
            above += marked[i];
        }
        int64_t room = count - above;
        for (int64_t i = 0; room > 0 && i < n; i++)
            if (NAME(key)(row[i]) == limit) {
                marked[i] = 1;
                room--;
            }
    }
    free(left);
    return 0;
}

/* Forward and backward of the masked network. x [K,B,d_0], target [K,B,d_L], bias [K,d_L], mask [K,B,C],
 * parts[l] [K,C,d_l,d_{l+1}], last_transposed [K,C,d_L,d_{L-1}].
 * gradients[l] (of all but the last site) and last_gradient (transposed as last_transposed, may be gradients[0] of
 * a tied network) are added to, scaled by `scale` = d loss / d (sum of squares); errors[k] = sum of squares;
 * counts [K,C] = samples that use a component. Rows of zero input give zero. Returns 0, or 1 without memory. */
int NAME(apd_topk_pass)(int K, int B, int L, const int *d, int C, const REAL *x, const REAL *target, const REAL *bias,
                        const uint8_t *mask, const REAL *const *parts, const REAL *last_transposed, REAL scale,
                        REAL *const *gradients, REAL *last_gradient, double *errors, int64_t *counts)
{
    int widest = 0;
    size_t total = 0;
    for (int l = 0; l <= L; l++) {
        widest = d[l] > widest ? d[l] : widest;
        total += (size_t)d[l];
    }
    int *index = malloc((size_t)(d[0] + C) * sizeof(int));
    REAL *scratch = malloc((total + 2 * (size_t)widest) * sizeof(REAL));
    if (!index || !scratch) {
        free(index);
        free(scratch);
        return 1;
    }
    int *on = index + d[0];
    REAL *const hidden = scratch + 2 * (size_t)widest;
    const int n_out = d[L], n_last = d[L - 1];
    memset(counts, 0, (size_t)K * C * sizeof(int64_t));
    for (int k = 0; k < K; k++) {
        double error = 0;
        for (int b = 0; b < B; b++) {
            const size_t sample = (size_t)k * B + b;
            const uint8_t *marks = mask + sample * C;
            int n_on = 0;
            for (int c = 0; c < C; c++) {
                on[n_on] = c;
                n_on += marks[c];
            }
            for (int i = 0; i < n_on; i++)
                counts[(size_t)k * C + on[i]]++;
            const REAL *row = x + sample * d[0];
            const int count = NAME(active)(row, d[0], index);
            if (!count)
                continue;
            REAL *h = hidden;
            for (int l = 0; l < L; l++) {
                const int d_in = d[l], d_out = d[l + 1];
                REAL *restrict next = h + d_in;
                if (l == L - 1)
                    memcpy(next, bias + (size_t)k * n_out, n_out * sizeof(REAL));
                else
                    memset(next, 0, d_out * sizeof(REAL));
                for (int i = 0; i < n_on; i++) {
                    const REAL *part = parts[l] + ((size_t)k * C + on[i]) * d_in * d_out;
                    const int n_rows = l ? d_in : count;
                    for (int a = 0; a < n_rows; a++) {
                        const int j = l ? a : index[a];
                        const REAL value = l ? h[j] : row[j];
                        const REAL *restrict weights = part + (size_t)j * d_out;
                        for (int q = 0; q < d_out; q++)
                            next[q] += value * weights[q];
                    }
                }
                h = next;
            }
            const REAL *truth = target + sample * n_out;
            REAL *g = scratch, *back = scratch + widest, squares = 0;
            for (int q = 0; q < n_out; q++) {
                const REAL difference = (h[q] <= 0 ? 0 : h[q]) - truth[q];
                squares += difference * difference;
                g[q] = h[q] <= 0 ? 0 : scale * difference;
            }
            error += squares;
            /* Last site: only outputs with a gradient count. */
            h -= n_last;
            const REAL *last_in = L > 1 ? h : row;
            memset(back, 0, n_last * sizeof(REAL));
            for (int q = 0; q < n_out; q++) {
                if (g[q] == 0)
                    continue;
                for (int i = 0; i < n_on; i++) {
                    const size_t at = (((size_t)k * C + on[i]) * n_out + q) * n_last;
                    const REAL *restrict weights = last_transposed + at;
                    REAL *restrict gradient = last_gradient + at;
                    for (int j = 0; j < n_last; j++) {
                        gradient[j] += g[q] * last_in[j];
                        back[j] += g[q] * weights[j];
                    }
                }
            }
            for (int l = L - 2; l >= 0; l--) {
                const int d_in = d[l], d_out = d[l + 1];
                REAL *swap = g;
                g = back;
                back = swap;
                h -= d_in;
                if (l)
                    memset(back, 0, d_in * sizeof(REAL));
                for (int i = 0; i < n_on; i++) {
                    const size_t at = ((size_t)k * C + on[i]) * d_in * d_out;
                    const int n_rows = l ? d_in : count;
                    for (int a = 0; a < n_rows; a++) {
                        const int j = l ? a : index[a];
                        const REAL value = l ? h[j] : row[j];
                        const REAL *restrict weights = parts[l] + at + (size_t)j * d_out;
                        REAL *restrict gradient = gradients[l] + at + (size_t)j * d_out;
                        for (int q = 0; q < d_out; q++)
                            gradient[q] += value * g[q];
                        if (l) {
                            REAL dot = 0;
                            for (int q = 0; q < d_out; q++)
                                dot += weights[q] * g[q];
                            back[j] += dot;
                        }
                    }
                }
            }
        }
        errors[k] = error;
    }
    free(index);
    free(scratch);
    return 0;
}

/* Scales each of R rows of length d to length one. */
int NAME(apd_unit_rows)(int64_t R, int64_t d, REAL *rows)
{
    for (int64_t r = 0; r < R; r++) {
        REAL *row = rows + r * d, squares = 0;
        for (int64_t i = 0; i < d; i++)
            squares += row[i] * row[i];
        const REAL scale = 1 / (REAL)sqrt(squares);
        for (int64_t i = 0; i < d; i++)
            row[i] *= scale;
    }
    return 0;
}

/* gradient -= (gradient . row) row for each of R rows of length d. */
int NAME(apd_project_rows)(int64_t R, int64_t d, const REAL *rows, REAL *gradients)
{
    for (int64_t r = 0; r < R; r++) {
        const REAL *row = rows + r * d;
        REAL *restrict gradient = gradients + r * d, along = 0;
        for (int64_t i = 0; i < d; i++)
            along += gradient[i] * row[i];
        for (int64_t i = 0; i < d; i++)
            gradient[i] -= along * row[i];
    }
    return 0;
}

#endif
