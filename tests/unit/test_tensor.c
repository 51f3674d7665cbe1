/* SPDX-License-Identifier: MIT
 *
 * Views: shapes, strides and where the first element lies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "causa/tensor.h"

static float values[2 * 3 * 4 * 5];

static void assert_view(ca_tensor t, const float *data, int rank, const int64_t *shape,
                        const int64_t *stride) {
    assert_ptr_equal(t.data, data);
    assert_int_equal(t.dtype, CA_F32);
    assert_int_equal(t.rank, rank);
    for (int axis = 0; axis < rank; axis++) {
        assert_int_equal(t.shape[axis], shape[axis]);
        assert_int_equal(t.stride[axis], stride[axis]);
    }
    for (int axis = rank; axis < CA_MAX_RANK; axis++) assert_int_equal(t.shape[axis], 1);
}

static void test_dtypes(void **state) {
    (void)state;
    assert_int_equal(ca_dtype_size(CA_F32), 4);
    assert_int_equal(ca_dtype_size(CA_BF16), 2);
    assert_int_equal(ca_dtype_size(CA_I64), 8);
    assert_string_equal(ca_dtype_name(CA_F16), "f16");
    assert_string_equal(ca_dtype_name((ca_dtype)99), "unknown");
}

static void test_contiguous_views(void **state) {
    (void)state;
    assert_view(ca_tensor_1d(values, CA_F32, 7), values, 1, (int64_t[]){7}, (int64_t[]){1});
    assert_view(ca_tensor_2d(values, CA_F32, 3, 4), values, 2, (int64_t[]){3, 4},
                (int64_t[]){4, 1});
    assert_view(ca_tensor_3d(values, CA_F32, 3, 4, 5), values, 3, (int64_t[]){3, 4, 5},
                (int64_t[]){20, 5, 1});
    ca_tensor t = ca_tensor_4d(values, CA_F32, 2, 3, 4, 5);
    assert_view(t, values, 4, (int64_t[]){2, 3, 4, 5}, (int64_t[]){60, 20, 5, 1});
    assert_int_equal(ca_tensor_count(&t), 120);
    assert_true(ca_tensor_is_contiguous(&t));
    t.data = NULL;
    assert_int_equal(ca_tensor_count(&t), 0);
}

static void test_slices_share_memory(void **state) {
    (void)state;
    ca_tensor t = ca_tensor_3d(values, CA_F32, 3, 4, 5);
    ca_tensor rows = ca_tensor_slice(t, 0, 1, 2);
    assert_view(rows, values + 20, 3, (int64_t[]){2, 4, 5}, (int64_t[]){20, 5, 1});
    assert_true(ca_tensor_is_contiguous(&rows));

    ca_tensor columns = ca_tensor_slice(rows, 2, 3, 2);
    assert_view(columns, values + 23, 3, (int64_t[]){2, 4, 2}, (int64_t[]){20, 5, 1});
    assert_false(ca_tensor_is_contiguous(&columns));
    assert_int_equal(ca_tensor_count(&columns), 16);

    ca_tensor one = ca_tensor_slice(ca_tensor_slice(t, 0, 2, 1), 1, 1, 2);
    assert_true(ca_tensor_is_contiguous(&one)); /* the stride of a single row does not count */
    ca_tensor none = ca_tensor_slice(t, 1, 4, 0);
    assert_int_equal(ca_tensor_count(&none), 0);
    assert_true(ca_tensor_is_contiguous(&none));

    t.data = NULL;
    assert_null(ca_tensor_slice(t, 0, 1, 2).data);
}

static void test_shapes_of_the_same_elements(void **state) {
    (void)state;
    ca_tensor t = ca_tensor_3d(values, CA_F32, 3, 4, 5);
    assert_view(ca_tensor_rows(t), values, 2, (int64_t[]){12, 5}, (int64_t[]){5, 1});
    assert_view(ca_tensor_rows(ca_tensor_1d(values, CA_F32, 5)), values, 2, (int64_t[]){1, 5},
                (int64_t[]){5, 1});
    assert_view(ca_tensor_reshape(t, 2, (int64_t[]){6, 10}), values, 2, (int64_t[]){6, 10},
                (int64_t[]){10, 1});

    /* [T, D] with D = H * Dh cut out of a wider row: only the row stride is kept. */
    ca_tensor wide = ca_tensor_slice(ca_tensor_2d(values, CA_F32, 4, 20), 1, 8, 12);
    ca_tensor heads = ca_tensor_split_last(wide, 3);
    assert_view(heads, values + 8, 3, (int64_t[]){4, 3, 4}, (int64_t[]){20, 4, 1});
    assert_view(ca_tensor_swap_axes(heads, 0, 1), values + 8, 3, (int64_t[]){3, 4, 4},
                (int64_t[]){4, 20, 1});
}

static void test_repeat_has_stride_zero(void **state) {
    (void)state;
    ca_tensor lanes = ca_tensor_repeat(ca_tensor_2d(values, CA_F32, 3, 4), 6);
    assert_view(lanes, values, 3, (int64_t[]){6, 3, 4}, (int64_t[]){0, 4, 1});
    assert_false(ca_tensor_is_contiguous(&lanes));
    assert_int_equal(ca_tensor_count(&lanes), 72);
    ca_tensor once = ca_tensor_repeat(ca_tensor_2d(values, CA_F32, 3, 4), 1);
    assert_true(ca_tensor_is_contiguous(&once));
}

static void test_same_shape_and_text(void **state) {
    (void)state;
    ca_tensor a = ca_tensor_2d(values, CA_F32, 12, 576), b = ca_tensor_2d(NULL, CA_BF16, 12, 576);
    ca_tensor c = ca_tensor_3d(values, CA_F32, 1, 12, 576);
    assert_true(ca_tensor_same_shape(&a, &b)); /* the type is not part of the shape */
    assert_false(ca_tensor_same_shape(&a, &c));
    b.shape[1] = 575;
    assert_false(ca_tensor_same_shape(&a, &b));
    assert_string_equal(ca_tensor_text(&a), "[12, 576] f32");

    /* Several texts live at the same time, for one message. */
    const char *first = ca_tensor_text(&b), *second = ca_tensor_text(&c);
    assert_string_equal(first, "[12, 575] bf16");
    assert_string_equal(second, "[1, 12, 576] f32");
    ca_tensor huge = ca_tensor_4d(NULL, CA_F32, 0, 0, 0, INT64_MAX);
    for (int axis = 0; axis < 4; axis++) huge.shape[axis] = INT64_MIN;
    assert_non_null(ca_tensor_text(&huge));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_contiguous_views),
        cmocka_unit_test(test_slices_share_memory),
        cmocka_unit_test(test_shapes_of_the_same_elements),
        cmocka_unit_test(test_repeat_has_stride_zero),
        cmocka_unit_test(test_same_shape_and_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
