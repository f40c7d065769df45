// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

// Holds the NEON loop against memset and one odd byte, at every length, place and some alignments, between pages that
// cannot be read. Prints how much was checked; dies or returns 1 where it is wrong.

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

uint64_t parapin_zero_neon(const uint8_t *start, size_t len, size_t ahead);
void parapin_read_neon(const uint8_t *start, size_t len);

int main(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *outer = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (outer == MAP_FAILED || mprotect(outer + page, page, PROT_READ | PROT_WRITE) != 0)
        return 1;
    uint8_t *inner = outer + page;
    unsigned long checked = 0;
    for (size_t len = 256; len <= 1100; len += len < 300 ? 1 : 61) {
        for (int end = 0; end < 2; end++) {
            for (size_t shift = 0; shift < 9; shift++) {
                uint8_t *start = end ? inner + page - len - shift : inner + shift;
                // What is around it must not matter.
                memset(inner, 0xff, page);
                memset(start, 0, len);
                parapin_read_neon(start, len);
                if (parapin_zero_neon(start, len, page) != 0)
                    return printf("%zu bytes, shift %zu: zero, and not found\n", len, shift), 1;
                for (size_t at = 0; at < len; at++) {
                    start[at] = (uint8_t)(1u << (at % 8));
                    if (parapin_zero_neon(start, len, 0) == 0)
                        return printf("%zu bytes, shift %zu: byte %zu missed\n", len, shift, at), 1;
                    start[at] = 0;
                    checked++;
                }
            }
        }
    }
    printf("checked %lu\n", checked);
    return 0;
}
