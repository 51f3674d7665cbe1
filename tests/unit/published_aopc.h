/* SPDX-License-Identifier: MIT
 *
 * Published mean changes of the log-probability and the areas under them, for test_statistics.c:
 * the figures of the benchmark of "Jacobian Scopes", arXiv 2601.16407, rounded to four decimals;
 * its code and prompts are not here. Rows of one model and data set stand together, that of
 * input_x_gradient among them, with which the differences are paired.
 */
#ifndef CAUSA_TESTS_PUBLISHED_AOPC_H
#define CAUSA_TESTS_PUBLISHED_AOPC_H

#include <math.h>

typedef struct published_aopc {
    const char *name;  /* model, data set, method */
    double delta[3];   /* mean over prompts at 5, 10 and 20 % */
    double aopc;       /* mean over prompts */
    double difference; /* to input_x_gradient, paired; NAN: none, or over other prompts */
} published_aopc;

/* clang-format off */
static const published_aopc published[] = {
    {"Llama-3.2-1B lmbd1000 random", {-0.7143, -1.2679, -2.9576}, -0.2608, NAN},
    {"Llama-3.2-1B lmbd1000 ig_5step_ce", {-4.3237, -7.0707, -9.1382}, -1.0953, 0.1890},
    {"Llama-3.2-1B lmbd1000 input_x_gradient", {-6.6880, -8.3037, -9.8854}, -1.2843, NAN},
    {"Llama-3.2-1B lmbd1000 semantic", {-6.6748, -8.4690, -9.9093}, -1.2975, -0.0133},
    {"Llama-3.2-1B lmbd1000 temperature", {-6.7939, -8.6621, -9.9406}, -1.3165, -0.0323},
    {"Llama-3.2-1B lmbd1000 fisher_r1", {-6.8611, -8.5904, -10.0852}, -1.3201, -0.0358},
    {"Llama-3.2-1B lmbd1000 fisher_r4", {-6.9110, -8.6166, -10.0609}, -1.3221, -0.0378},
    {"Llama-3.2-1B lmbd1000 fisher_r16", {-6.9363, -8.6385, -10.1154}, -1.3271, -0.0428},
    {"Llama-3.2-1B lmbd1000 fisher_r64", {-6.9236, -8.6345, -10.1235}, -1.3268, -0.0426},
    {"Llama-3.2-1B lmbd1000 fisher_r256", {-6.9487, -8.6568, -10.1234}, -1.3291, -0.0449},
    {"Llama-3.2-1B IWSLT2017DE_EN random", {-0.5699, -1.5720, -3.3080}, -0.2975, NAN},
    {"Llama-3.2-1B IWSLT2017DE_EN ig_5step_ce", {-3.8959, -5.8912, -7.9109}, -0.9348, 0.1086},
    {"Llama-3.2-1B IWSLT2017DE_EN input_x_gradient", {-5.1646, -6.8031, -8.0809}, -1.0434, NAN},
    {"Llama-3.2-1B IWSLT2017DE_EN semantic", {-5.4108, -6.8562, -8.1579}, -1.0574, -0.0140},
    {"Llama-3.2-1B IWSLT2017DE_EN temperature", {-5.4302, -7.1497, -8.4165}, -1.0928, -0.0494},
    {"Llama-3.2-1B IWSLT2017DE_EN fisher_r1", {-5.5453, -7.0374, -8.2576}, -1.0793, -0.0359},
    {"Llama-3.2-1B IWSLT2017DE_EN fisher_r4", {-5.6172, -7.1176, -8.3170}, -1.0901, -0.0467},
    {"Llama-3.2-3B lmbd1000 random", {-0.6156, -1.1706, -2.5137}, -0.2289, NAN},
    {"Llama-3.2-3B lmbd1000 ig_5step_ce", {-1.3510, -3.7523, -7.1386}, -0.6721, 0.4473},
    {"Llama-3.2-3B lmbd1000 input_x_gradient", {-4.9463, -7.2020, -9.1133}, -1.1195, NAN},
    {"Llama-3.2-3B lmbd1000 semantic", {-5.3786, -7.4443, -9.3893}, -1.1623, -0.0428},
    {"Llama-3.2-3B lmbd1000 temperature", {-5.4011, -7.4835, -9.5265}, -1.1726, -0.0531},
    {"Llama-3.2-3B lmbd1000 fisher_r1", {-5.4571, -7.5246, -9.4760}, -1.1746, -0.0551},
    {"Llama-3.2-3B lmbd1000 fisher_r4", {-5.3905, -7.6483, -9.5690}, -1.1868, -0.0674},
    {"Llama-3.2-3B lmbd1000 fisher_r16", {-5.3257, -7.6061, -9.6027}, -1.1837, -0.0643},
    {"Llama-3.2-3B IWSLT2017DE_EN random", {-0.4488, -0.9540, -2.0816}, -0.1868, NAN},
    {"Llama-3.2-3B IWSLT2017DE_EN ig_5step_ce", {-1.1374, -3.1831, -6.1854}, -0.5764, 0.1920},
    {"Llama-3.2-3B IWSLT2017DE_EN input_x_gradient", {-3.3094, -4.7942, -6.5236}, -0.7685, NAN},
    {"Llama-3.2-3B IWSLT2017DE_EN semantic", {-3.3323, -4.8145, -6.6443}, -0.7766, -0.0081},
    {"Llama-3.2-3B IWSLT2017DE_EN temperature", {-3.1371, -4.6953, -6.5852}, -0.7598, 0.0086},
    {"Llama-3.2-3B IWSLT2017DE_EN fisher_r1", {-3.5596, -4.9937, -6.6685}, -0.7969, -0.0285},
    {"Llama-3.2-3B IWSLT2017DE_EN fisher_r4", {-3.7660, -5.1633, -6.6689}, -0.8148, -0.0464},
    {"Llama-3.1-8B lmbd1000 random", {-0.5976, -1.5997, -3.1786}, -0.2938, NAN},
    {"Llama-3.1-8B lmbd1000 ig_5step_ce", {-2.5417, -6.2217, -9.6639}, -1.0134, 0.1823},
    {"Llama-3.1-8B lmbd1000 input_x_gradient", {-5.3368, -7.5700, -9.8904}, -1.1957, NAN},
    {"Llama-3.1-8B lmbd1000 semantic", {-4.8496, -7.3519, -10.0544}, -1.1753, 0.0203},
    {"Llama-3.1-8B lmbd1000 temperature", {-4.7519, -7.1581, -9.7832}, -1.1448, 0.0509},
    {"Llama-3.1-8B lmbd1000 fisher_r1", {-4.9544, -7.5089, -10.3615}, -1.2051, -0.0094},
    {"Llama-3.1-8B IWSLT2017DE_EN random", {-0.5463, -1.2119, -2.2723}, -0.2182, NAN},
    {"Llama-3.1-8B IWSLT2017DE_EN ig_5step_ce", {-2.0530, -4.6253, -7.8503}, -0.7907, -0.0748},
    {"Llama-3.1-8B IWSLT2017DE_EN input_x_gradient", {-2.4570, -4.2948, -6.6472}, -0.7159, NAN},
    {"Llama-3.1-8B IWSLT2017DE_EN semantic", {-1.8916, -3.6502, -6.3898}, -0.6405, 0.0754},
    {"Llama-3.1-8B IWSLT2017DE_EN temperature", {-1.4053, -3.0373, -5.7818}, -0.5520, 0.1639},
    {"Llama-3.1-8B IWSLT2017DE_EN fisher_r1", {-2.3003, -3.8772, -6.5766}, -0.6771, 0.0388},
    {"Qwen2.5-1.5B lmbd1000 random", {-0.7504, -1.7153, -4.0351}, -0.3492, NAN},
    {"Qwen2.5-1.5B lmbd1000 ig_5step_ce", {-8.2426, -11.3403, -13.1456}, -1.7139, 0.0060},
    {"Qwen2.5-1.5B lmbd1000 input_x_gradient", {-8.2852, -11.3631, -13.2098}, -1.7199, NAN},
    {"Qwen2.5-1.5B lmbd1000 semantic", {-7.9291, -11.0905, -13.0416}, -1.6821, 0.0378},
    {"Qwen2.5-1.5B lmbd1000 temperature", {-9.2637, -12.6065, -13.6724}, -1.8607, -0.1408},
    {"Qwen2.5-1.5B lmbd1000 fisher_r1", {-8.7802, -11.8136, -13.3847}, -1.7748, -0.0549},
    {"Qwen2.5-1.5B IWSLT2017DE_EN random", {-0.6092, -1.2397, -2.8334}, -0.2499, NAN},
    {"Qwen2.5-1.5B IWSLT2017DE_EN ig_5step_ce", {-6.0301, -8.6680, -11.0639}, -1.3540, 0.0009},
    {"Qwen2.5-1.5B IWSLT2017DE_EN input_x_gradient", {-6.0087, -8.6760, -11.0806}, -1.3549, NAN},
    {"Qwen2.5-1.5B IWSLT2017DE_EN semantic", {-4.9606, -7.7863, -10.6302}, -1.2395, 0.1154},
    {"Qwen2.5-1.5B IWSLT2017DE_EN temperature", {-5.7172, -8.8685, -11.4411}, -1.3801, -0.0252},
    {"Qwen2.5-1.5B IWSLT2017DE_EN fisher_r1", {-6.2704, -8.8254, -11.1638}, -1.3769, -0.0219},
    {"Qwen2.5-3B lmbd1000 random", {-0.7508, -1.4291, -3.3500}, -0.2935, NAN},
    {"Qwen2.5-3B lmbd1000 ig_5step_ce", {-7.1069, -8.8843, -10.8445}, -1.3862, 0.0058},
    {"Qwen2.5-3B lmbd1000 input_x_gradient", {-7.1081, -8.9255, -10.8992}, -1.3921, NAN},
    {"Qwen2.5-3B lmbd1000 semantic", {-6.7574, -8.5575, -10.5022}, -1.3359, 0.0562},
    {"Qwen2.5-3B lmbd1000 temperature", {-8.2521, -10.3124, -11.4785}, -1.5537, -0.1616},
    {"Qwen2.5-3B lmbd1000 fisher_r1", {-7.2616, -9.0716, -10.9651}, -1.4102, -0.0181},
    {"Qwen2.5-3B lmbd1000 fisher_r4", {-7.3785, -9.1334, -10.9333}, -1.4161, -0.0241},
    {"Qwen2.5-3B lmbd1000 fisher_r16", {-7.3345, -9.1265, -10.9272}, -1.4142, -0.0221},
    {"Qwen2.5-3B IWSLT2017DE_EN random", {-0.5544, -1.1417, -2.0602}, -0.2025, NAN},
    {"Qwen2.5-3B IWSLT2017DE_EN ig_5step_ce", {-4.9641, -7.1210, -9.0525}, -1.1108, 0.0023},
    {"Qwen2.5-3B IWSLT2017DE_EN input_x_gradient", {-4.9312, -7.1346, -9.0939}, -1.1131, NAN},
    {"Qwen2.5-3B IWSLT2017DE_EN semantic", {-3.8732, -6.3060, -8.8064}, -1.0101, 0.1030},
    {"Qwen2.5-3B IWSLT2017DE_EN temperature", {-5.0039, -7.6156, -10.1018}, -1.2014, -0.0883},
    {"Qwen2.5-3B IWSLT2017DE_EN fisher_r1", {-5.2987, -7.4015, -9.2000}, -1.1476, NAN},
    {"Qwen2.5-3B IWSLT2017DE_EN fisher_r4", {-5.5424, -7.4790, -9.4197}, -1.1705, -0.0574},
    {"gemma-3-1b-pt lmbd1000 random", {-0.7837, -2.0005, -4.9672}, -0.4180, NAN},
    {"gemma-3-1b-pt lmbd1000 ig_5step_ce", {-1.8643, -3.4131, -6.7272}, -0.6390, 0.9225},
    {"gemma-3-1b-pt lmbd1000 input_x_gradient", {-7.3807, -10.1033, -12.3835}, -1.5614, NAN},
    {"gemma-3-1b-pt lmbd1000 semantic", {-7.8588, -10.7191, -12.6984}, -1.6353, -0.0739},
    {"gemma-3-1b-pt lmbd1000 temperature", {-8.6148, -10.9284, -12.5354}, -1.6618, -0.1003},
    {"gemma-3-1b-pt lmbd1000 fisher_r1", {-8.2764, -10.9972, -12.7639}, -1.6699, -0.1085},
    {"gemma-3-1b-pt IWSLT2017DE_EN random", {-0.6223, -1.6889, -5.2646}, -0.4055, NAN},
    {"gemma-3-1b-pt IWSLT2017DE_EN ig_5step_ce", {-2.9374, -5.3752, -8.6226}, -0.9077, 0.4481},
    {"gemma-3-1b-pt IWSLT2017DE_EN input_x_gradient", {-6.5347, -8.6680, -10.8477}, -1.3558, NAN},
    {"gemma-3-1b-pt IWSLT2017DE_EN semantic", {-6.0631, -8.4032, -10.4114}, -1.3024, 0.0535},
    {"gemma-3-1b-pt IWSLT2017DE_EN temperature", {-6.1296, -8.2022, -10.4348}, -1.2901, 0.0657},
    {"gemma-3-1b-pt IWSLT2017DE_EN fisher_r1", {-6.8079, -8.9963, -10.9543}, -1.3926, -0.0368},
    {"gemma-3-4b-pt lmbd1000 random", {-0.6500, -1.3579, -3.4510}, -0.2906, NAN},
    {"gemma-3-4b-pt lmbd1000 ig_5step_ce", {-5.1075, -9.1217, -12.3728}, -1.4305, 0.2737},
    {"gemma-3-4b-pt lmbd1000 input_x_gradient", {-8.3656, -10.9678, -13.4492}, -1.7042, NAN},
    {"gemma-3-4b-pt lmbd1000 semantic", {-8.7192, -11.6144, -13.7153}, -1.7748, -0.0706},
    {"gemma-3-4b-pt lmbd1000 temperature", {-9.0349, -11.6899, -13.5087}, -1.7780, -0.0739},
    {"gemma-3-4b-pt lmbd1000 fisher_r1", {-8.9992, -11.9342, -13.8864}, -1.8144, -0.1102},
    {"gemma-3-4b-pt IWSLT2017DE_EN random", {-0.4410, -0.8655, -2.0997}, -0.1809, NAN},
    {"gemma-3-4b-pt IWSLT2017DE_EN ig_5step_ce", {-5.7367, -7.7741, -9.6397}, -1.2085, -0.0377},
    {"gemma-3-4b-pt IWSLT2017DE_EN input_x_gradient", {-5.6375, -7.5672, -9.2457}, -1.1708, NAN},
    {"gemma-3-4b-pt IWSLT2017DE_EN semantic", {-4.6615, -6.7293, -8.6822}, -1.0553, 0.1154},
    {"gemma-3-4b-pt IWSLT2017DE_EN temperature", {-4.4763, -6.2239, -8.2860}, -0.9930, 0.1778},
    {"gemma-3-4b-pt IWSLT2017DE_EN fisher_r1", {-5.7289, -7.7431, -9.4504}, -1.1965, -0.0257},
};
/* clang-format on */

#endif
