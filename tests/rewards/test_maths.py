"""The maths reward: which answers are the same, where a completion gives its answer, and what cannot be graded."""

from __future__ import annotations

import copy
import logging
import random
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from bots_lightning.rewards.graded import Outcomes
from bots_lightning.rewards.maths import PLAIN_NUMBER, UNFINISHED, MathReward, gold_answer
from bots_lightning.rewards.maths_answers import Extraction, stated_answer
from bots_lightning.rewards.maths_forms import balanced
from bots_lightning.rewards.maths_typography import tidy
from bots_lightning.rewards.scorer import RewardFunction, Scorer
from bots_lightning.tasks import Task

pytest.importorskip("latex2sympy2_extended")

from bots_lightning.rewards.maths_grader import equal, grade

SAME = [
    ("72", "72.0"),
    ("72", " 72."),
    ("1000", "1,000"),
    ("12345678", "12{,}345{,}678"),
    (r"\$32,\!348", "32348"),
    (r"11,\! 111,\! 100", "11111100"),
    ("18", r"\$18.00"),
    ("18", "18 dollars per day"),
    ("18", r"18 \text{ dollars}"),
    ("18", r"\text{18}"),
    ("-3", "−3"),
    (".35625", "0.35625"),
    (r"\frac{3}{4}", "3/4"),
    (r"\frac{3}{4}", r"\dfrac34"),
    (r"\frac{3}{4}", "0.75"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    ("1/3", "0.333333"),
    (r"137 \frac{1}{2}", "137.5"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"2^{10}", "1024"),
    ("3000000", r"3 \times 10^{6}"),
    ("50\\%", "50"),
    ("50\\%", "0.5"),
    ("12.5", "12.5%"),
    ("x=5", "5"),
    ("5", r"x = 5"),
    ("18", r"9 \cdot 2 = 18"),
    ("y = 2x + 3", "2x - y + 3 = 0"),
    ("(a+5)(b+2)", "ab + 2a + 5b + 10"),
    ("6 - 5i", "-5i + 6"),
    (r"90^\circ", "90"),
    (r"90", r"90^{\circ}"),
    (r"864 \mbox{ inches}^2", r"864\text{ in}^2"),
    ("5 or 6", r"6, 5"),
    (r"3, 5", r"3 \text{ and } 5"),
    (r"\{1, 2\}", "2, 1"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt{5}, 1-\sqrt{5}\}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
    ("(1, 2)", "(x, y) = (1, 2)"),
    ("(1, 2)", "x = 1, y = 2"),
    ("x = 1, y = 2", "y=2, x=1"),
    (r"x \in [-2,7]", "[-2, 7]"),
    ("(3,4]", r"3 < x \le 4"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"x < 2 \text{ or } x > 3"),
    (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{bmatrix} 0.5 \\ 3 \end{bmatrix}"),
    ("52_8", "52_{8}"),
    ("25", r"25^{\circ}C"),
    ("5000000", r"5 \text{ million}"),
    (r"2\sqrt{3}", r"2\sqrt3 \text{ units}"),
    ("288\\pi", r"288\pi cubic units"),
    ("60", r"60 \frac{\text{km}}{\text{h}}"),
    ("60", "60 km/h"),
    ("9", r"\mathbf{9}"),
    ("100", r"\text{Total: } 100"),
    (r"(3, \frac{\pi}{2})", r"(r, \theta) = (3, \frac{\pi}{2})"),
    (r"\text{Monday}", "monday"),
    (r"\text{(B)}", r"\textbf{(B) } 12"),
    ("B", "(B)"),
    ("yes", r"\text{Yes}."),
    ("1.41", "\\sqrt{2} \\approx 1.41"),
    ("\\sqrt{2}", "\\sqrt{2} \\approx 1.41"),
    ("3.14", "\\approx 3.14"),
    ("3.14", "≈ 3.14"),
    ("\\emptyset", "\\varnothing"),
    ("3:30 PM", "3:30 \\text{ p.m.}"),
    ("7", "Seven"),
    ("seven", "7"),
    # letters
    ("2c+3", "3 + 2c"),
    ("p+q", "q+p"),
    ("a+b+c", "c+b+a"),
    ("uv", "vu"),
    ("u^2", r"u \cdot u"),
    ("p=3", "3"),
    ("p(1-p)", "p - p^2"),
    (r"\frac{p}{q}", "p/q"),
    ("x = -5, p = 2", "-5, 2"),
    (r"\text{x = -5, p = 2}", "x=-5, p=2"),
    ("y=x^2", "f(x) = x^2"),
    ("sin(x)", r"\operatorname{sin}(x)"),
    # sizes
    (r"\frac{3^{100}-1}{2 \cdot 3^{100}}", r"\frac{1}{2} - \frac{1}{2 \cdot 3^{100}}"),
    (r"\frac{1}{20!}", r"\frac{1}{20!}"),
    (r"\frac{1}{1073741824}", r"\frac{1}{2^{30}}"),
    (r"\sqrt{2}", "1.41421356"),
    # fonts, units, characters
    ("e^2", r"\mathrm{e}^2"),
    ("2+3i", r"2 + 3\mathrm{i}"),
    (r"\log_2 8", r"\mathrm{log}_2 8"),
    (r"\sin 30^\circ", r"\frac{1}{2}"),
    ("9.8", r"9.8\,\mathrm{m/s^2}"),
    ("60", r"60\ \mathrm{km\cdot h^{-1}}"),
    ("10", "10 m s^{-1}"),
    ("5", r"5\textnormal{ miles}"),
    ("1/2", "½"),
    ("3/2", "1½"),
    (r"\sqrt{2}", "√2"),
    (r"\sqrt{x+1}", "√(x+1)"),
    ("x^4", "x⁴"),
    ("x^{12}", "x¹²"),
    ("-5", "\u20105"),
    ("-5", "\u20115"),
    ("-5", "\uff0d5"),
    ("(1,2)", "（1，2）"),
    ("5", "５"),
    ("5", "٥"),
    (r"12\pi", "12π"),
    (r"2\pi", "2 pi"),
    ("1/3", r"0.\overline{3}"),
    ("1/6", r"0.1\bar{6}"),
    ("1/7", r"0.\overline{142857}"),
    (r"0.\overline{3}", r"\frac13"),
    # sets and matrices
    (r"\mathbb{R}", "all real numbers"),
    (r"\mathbb{R}", r"(-\infty, \infty)"),
    (r"\mathbb{R}\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)"),
    (r"\mathbb{R}\setminus\{0\}", r"x \ne 0"),
    (r"\{x \mid x > 3\}", "x > 3"),
    (r"\{x | x>3\}", r"(3, \infty)"),
    (r"\emptyset", r"\text{no solution}"),
    (r"\emptyset", r"\{\}"),
    (r"[1,2]", r"1 \le x \le 2"),
    (r"p \ge 2", r"2 \le p"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1, 2)"),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
    ("2x+4y=6", "x+2y=3"),
    # words
    ("21", "twenty-one"),
    ("100", "one hundred"),
    ("1250", "one thousand two hundred and fifty"),
    (r"\infty", "infinity"),
    ("12", r"x \approx 12"),
    ("3:4", r"3 \text{ to } 4"),
    ("3:4", "3/4"),
    ("5", r"\text{The answer is } 5"),
    (r"2 \cdot 3", "6"),
    ("5", "|3+4i|"),
    ("3", r"\log_2 8"),
    ("16", "2^{2^2}"),
    ("24", r"\{24\}"),
]
# A computation is no answer to itself.
NOT_WORKED_OUT = [
    ("16", "9 + 7"),
    ("16", r"2 \cdot 8"),
    ("16", "2(8)"),
    ("16", "(2)(8)"),
    ("16", "32/2"),
    ("16", r"\frac{32}{2}"),
    ("16", r"\frac{2}{8^{-1}}"),
    ("16", r"9\frac{7}{1}"),
    ("16", "9 - 7i^2"),
    ("16", r"\ln(e^9 e^7)"),
    ("16", r"e^{\ln 2 + \ln 8}"),
    ("16", r"\begin{vmatrix} 2 & 0 \\ 0 & 8 \end{vmatrix}"),
    ("16", r"\sum_{k=1}^{16} 1"),
    ("16", r"\frac{16!}{15!}"),
    ("10", r"\binom{5}{2}"),
    ("12", r"0.15 \cdot 80"),
    ("3/4", r"\frac{1}{4} + \frac{1}{2}"),
    ("5 + \\pi", "2 + 3 + \\pi"),
    ("(16, 2)", "(9+7, 2)"),
    (r"\{16, 2\}", r"\{2, 9+7\}"),
    ("x > 16", "x > 9 + 7"),
    ("x > 2", "2x > 4"),
    ("x = 5", "2x = 10"),
]
DIFFERENT = [
    ("0.5", "5"),
    ("1/2", "1/3"),
    ("1/3", "0.333"),
    ("0.0000001", "0.0000002"),
    ("100", "100.001"),
    ("1234567.1", "1234567.2"),
    ("72", "-72"),
    ("72", "172"),
    ("1,000", "1"),
    ("12", "1 2"),
    ("1,234", "1, 234"),
    ("10", "0.1"),
    ("5", "5 million"),
    ("5", "5!"),
    ("3", r"3\sqrt{2}"),
    ("3", "3:4"),
    ("3", r"3 \text{ hours } 20 \text{ minutes}"),
    (r"\sqrt2", "1.41"),
    ("(1,2)", "(2,1)"),
    ("[1,2)", "(1,2]"),
    ("[1,2]", "(1,2)"),
    (r"\{1,2\}", r"\{1,3\}"),
    (r"\{1,2\}", "(1,2)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("1, 1, 2", "1, 2, 2"),
    ("5 or 6", "5"),
    ("5", "5 or 6"),
    ("3, 5", "35"),
    ("x = 1, y = 2", "x = 2, y = 1"),
    ("(1, 2)", "x = 2, y = 1"),
    ("x=5", "y=5"),
    ("y = 2x + 3", "y = 3x + 2"),
    ("p - q", "q - p"),
    ("1 - 12i", "1 + 12i"),
    ("2k", "2n"),
    (r"1 \pm \sqrt{19}", r"1 + \sqrt{19}"),
    ("(3,4]", r"3 < x < 4"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    ("52_8", "52_9"),
    (r"\text{Monday}", "Tuesday"),
    (r"\text{even}", "not even"),
    ("B", "(C)"),
    ("B", "A, B"),
    ("5 \\text{ p.m.}", "5 a.m."),
    ("72", ""),
    ("72", "{72"),
    ("2", "the second of them"),
    ("3:30 PM", "3:30 AM"),
    ("8", "9 \\approx 8"),
    ("8", "7 \\approx 8 \\approx 9"),
    ("7", "seventeen"),
    ("B", "option C"),
    ("2p+3", "2c+3"),
    ("2p+3", "2u+3"),
    ("3p^2", "3u^2"),
    ("10c", "10u"),
    ("p=3", "u=3"),
    ("2A", "2B"),
    (r"\frac{3^{100}-1}{2 \cdot 3^{100}}", r"\frac{7}{3^{100}}"),
    (r"(\frac{2}{3})^{100}", r"(\frac{2}{3})^{99}"),
    (r"\frac{100!}{2^{100}}", r"\frac{100!}{2^{101}}"),
    (r"\frac{1}{20!}", r"\frac{1}{21!}"),
    (r"\sqrt{10^{20}+1}", "10^{10}"),
    (r"1 - \frac{1}{2^{40}}", "1"),
    (r"x > \frac{1}{20!}", r"x > \frac{1}{21!}"),
    (r"(0, \frac{1}{20!})", r"(0, \frac{1}{21!})"),
    ("0", "0.0000001"),
    ("0", "10^{-10}"),
    ("123456789", "123456789.5"),
    ("0.3", r"0.\overline{3}"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
    ("2021", "2024-01-02"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    ("x > 3", "y > 3"),
    ("x > 3", r"x \ge 3"),
    ("2", r"\pm 2"),
    ("A", "(A), (B)"),
    ("A", "not A"),
    ("5", "zoo"),
]

RIGHT = [
    ("18", "Janet sells 16 - 3 - 4 = 9 eggs.\nShe makes 9 * 2 = 18 dollars.\n\nThe answer is $\\boxed{18}$."),
    ("18", r"First \boxed{9}. Wait, that is the number of eggs. So the total is \boxed{18}."),
    ("18", "Please put the answer in \\boxed{}.\nHence \\boxed{18}"),
    ("18", r"Therefore she makes \(\boxed{\$18}\) every day."),
    ("18", r"\[ \boxed{18 \text{ dollars}} \]"),
    ("18", r"So the answer is \boxed{18.00}"),
    ("18", r"\[\boxed{\text{18 dollars}}\]"),
    ("18", r"She makes $\boxed{\mathbf{18}}$ dollars, which is more than 9 dollars."),
    ("18", r"\boxed 18"),
    ("18", r"Final: $\fbox{18}$"),
    ("18", "16 - 3 - 4 = 9, and 9 * 2 = 18.\n#### 18"),
    ("18", "9 * 2 = 18\n#### $18"),
    ("18", "9 * 2 = 18\nA: 18"),
    ("18", "The answer is 18."),
    ("18", "The answer is $18."),
    ("18", "So the final answer is: **18**"),
    ("18", "**Final Answer:** 18 dollars"),
    ("18", "## Final Answer\n\n18"),
    ("18", "**Final Answer**\n\n\\[ 18 \\]"),
    ("18", "Thus, the answer is 9 * 2 = 18 dollars."),
    ("18", "Therefore, the answer is 18 because she sells 9 eggs at 2 dollars."),
    ("18", "The answer is 18. Let me check the answer: 16 - 3 - 4 = 9 and 9 * 2 = 18. The answer is correct."),
    ("18", "The answer to the question is that she makes $18 every day."),
    ("18", "18"),
    ("18", "$18"),
    ("18", "18 dollars"),
    ("18", "Janet makes 9 * 2 = $18 every day at the farmers' market."),
    ("18", "She has 9 eggs left.\n\nSo Janet makes **$18** every day over 7 days."),
    ("18", "She sells 9 eggs.\n\n\\[ 9 \\times 2 = 18 \\]"),
    ("18", "```python\neggs = 16 - 3 - 4\nprint(eggs * 2)\n```\n```output\n18\n```"),
    ("18", "```python\nprint((16 - 3 - 4) * 2)\n```\n```output\n18\n```\nThe answer is $\\boxed{18}$."),
    ("18", "<think>Is it \\boxed{9}? No.</think>\nThe answer is \\boxed{18}."),
    ("18", "1. **Eggs**: 9.\n2. \\[9 \\times 2 = 18\\]\n\nTherefore, Janet makes \\$18 at the farmers' market."),
    ("18", "She makes 9*$2 = $18 at the market each day."),
    ("18", "9 * 2 = <<9*2=18>>18, so the answer is <<18=18>>18."),
    ("18", "<answer>18</answer>"),
    ("18", "The answer is 18<|im_end|>"),
    ("4", "The roots are $x=2$ and $x=0$, so the sum of squares is 4 + 0 = 4."),
    ("2125", "Altogether they paid $2,125."),
    (r"\frac{3}{4}", r"Hence the probability is $\frac{9}{12} = \frac{3}{4}$."),
    (r"\frac{3}{4}", "The probability is 3/4."),
    ("3, 5", r"The solutions are \boxed{3} and \boxed{5}."),
    ("3, 5", "The answers are $5$ and $3$."),
    ("(2, -3)", "The answer is (2, -3)."),
    ("25\\%", "The answer is 25 percent."),
    ("25", r"So $\boxed{25\%}$ of them are red."),
    ("x^2 + 1", "The answer is x^2 + 1."),
    (r"\text{Monday}", "The answer is Monday."),
    ("B", "The correct answer is (B) 12."),
    ("(-\\infty, 0]", r"so $x\le 0$, that is, $\boxed{x \in (-\infty, 0]}$"),
    ("3:30 PM", "The train arrives at 3:30 PM. The answer is 3:30 PM."),
    ("3:4", "The answer is 3:4."),
    ("C", "So the correct choice is **C**."),
    ("C", "Therefore, the correct answer is option C."),
    ("7", "There are seven students. The answer is seven."),
    ("18", "答案是18。"),
    ("18", "The answer is 18.\n\nQuestion: Tom has 3 apples. How many?\nAnswer: The answer is 3."),
    ("18", "The answer is 18.\n\nQ: Tom has 3 apples. How many?\nA: 3"),
    ("18", "9*2=18\n#### 18\n\n**Problem:** Tom has 3 apples. How many?\n#### 3"),
    ("18", "\\boxed{18}\n\nHuman: What is 1+2?\n\nAssistant: \\boxed{3}"),
    ("18", "The answer is: 18\n\n### Instruction:\nWhat is 1+2?\n\n### Response:\nThe answer is: 3"),
    ("18", "<|im_start|>assistant\n\\boxed{18}.<|im_end|>\n<|im_start|>assistant\n\\boxed{3}"),
    ("18", "The answer is 18.<|endoftext|>The answer is 3."),
    ("18", "Question: How much?\nAnswer: 18"),
    ("18", "<think>\\boxed{3}\nProblem: again.</think>\\boxed{18}"),
    ("18", "[THINK]19[/THINK]18"),
    ("3", "It takes 3 bolts in total. #### 3"),
    ("18", "So she makes $18 a day. #### $18"),
    ("18", "9*2=18\n#### Answer: 18"),
    ("18", "9*2=18\n####: 18"),
    ("18", "9*2=18\n####18."),
    ("18", "9*2=18\n#### **18**"),
    ("18", "9*2=18\n#### The answer is 18."),
    ("18", "#### Step 2\n9*2 = 18\n\nThe answer is 18."),
    ("3, 5", r"\boxed{3} \quad \boxed{5}"),
    ("3, 5", r"$$\boxed{3} \quad \text{and} \quad \boxed{5}$$"),
    ("3, 5", r"\[ x=\boxed{3} \quad \text{or} \quad x=\boxed{5} \]"),
    ("3, 5", r"\boxed{3} \\ \boxed{5}"),
    ("3, 5", r"\boxed{3},\ \boxed{5}"),
    ("3, 5", "1. $\\boxed{3}$\n2. $\\boxed{5}$"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"Thus the vector is $\begin{pmatrix}1\\2\end{pmatrix}$."),
    ("34", "The final answer is: the largest value of $n$ is $34$."),
    ("19", "Final Answer: The maximum number of points in the domain of $f(x)$ is 19."),
    ("5", r"\boxed{Answer: 5}"),
    ("18", "The answer is not 17 but 18."),
    ("18", "The answer isn't 17, it is 18."),
    ("18", "I think the answer is 18, but I am not sure."),
    ("18", "The final number is 18!"),
    ("18", '{"answer": 18}'),
    ("18", "### 18"),
    ("5", "<answer> $x<5$ hence 5 </answer>"),
    ("5", "La réponse est 5."),
    ("5", "The answer is ５。"),
    ("100", "The answer is one hundred."),
    ("C", "Therefore, option C is correct."),
    ("D", "The answer is for sure D."),
    (r"12\pi", "The area is 12π."),
    (r"\text{5:30 p.m.}", "They meet at 5:30 p.m."),
    ("12", r"Therefore $x \approx 12$."),
    ("600", "So the total number of books that were not sold is: 800 - 200 = 600 books."),
    ("12", "Then 2400 / 200 = 12 200-kilobyte videos fit on it."),
]
WRONG = [
    ("18", "Janet sells 9 eggs.\nShe makes \\boxed{9}"),
    ("18", r"At first I thought \boxed{18}. But 9 * 3 = 27, so \boxed{27}."),
    ("18", "She sells 9 eggs for $2 each, 18 dollars in all, so that after a week she"),
    ("18", "So it could be 18. Now we need to"),
    ("18", "16 - 3 - 4 = 9. Then 9 * 2 = 18. The answer is"),
    ("18", "16 - 3 - 4 = 9. Then 9 * 2 = 18.\nTherefore, the answer is \\boxed{"),
    ("1", "Therefore, the answer is \\boxed{1"),
    ("18", "First, \\boxed{18}. Second, \\boxed{\\frac{1}{"),
    ("18", "\\[ 9 \\times 2 = 18"),
    ("18", "```python\nprint(18)\n"),
    ("18", "<think>So 9 * 2 = 18. The answer is 18."),
    ("18", "<think>\\boxed{18}</think>\nThe answer is \\boxed{9}."),
    ("18", "She makes 18 dollars a day.\n#### 126"),
    ("18", "The answer is not 18."),
    ("18", "The answer is 180."),
    ("18", "The answer is 1.8."),
    ("18", "The answer is -18."),
    ("18", "So she makes $18 every day. In a week it is $126."),
    ("18", "There are 18 ways... "),
    ("18", "I cannot solve this."),
    ("18", ""),
    ("18", r"\boxed{}"),
    ("18", r"\boxed{18 \text{ or } 9}"),
    ("5", r"The solutions are \boxed{3} and \boxed{5}."),
    ("3", r"The solutions are \boxed{3} and \boxed{5}."),
    ("6", "The answer is 6 - 5i."),
    ("3", "The answer is 3/4."),
    ("3", "The answers are 3 and 4."),
    ("3", "The answer is between 3 and 4."),
    ("3", "Answer: 3 hours and 20 minutes"),
    ("3", "The answer is 3 million."),
    ("3", "The answer is 3, 4."),
    ("3", "The answer is $3$ or $4$."),
    ("B", "The answer is (C), not B."),
    ("18", "The answer is 3.\n\nQuestion: Tom has 16 apples and buys 2.\nThe answer is 18."),
    ("18", "\\boxed{3}\n\nUser: What is 16+2?\nAssistant: \\boxed{18}."),
    ("3:30 PM", "The answer is 3:30 AM."),
    ("3", "The answer is 3:4."),
    ("C", "The answer is option D."),
    ("7", "The answer is eleven."),
    ("16", "9 + 7"),
    ("16", "9 + 7 is"),
    ("16", "The answer is 9 + 7"),
    ("16", "The answer is 9 + 7."),
    ("16", "2 * 8"),
    ("16", r"So we get \(9 + 7\)."),
    ("16", "#### 9 + 7"),
    ("16", "<answer>9 + 7</answer>"),
    ("18", "The answer isn't 18"),
    ("18", "The answer isn't 18."),
    ("18", "The final answer is not equal to 18."),
    ("18", "It is wrong that the answer is 18."),
    ("18", "I doubt that the answer is 18."),
    ("18", "The answer is less than 18."),
    ("18", "The answer is at most 18."),
    ("18", "The answer is 18 (or 19)."),
    ("18", "The answer is either 18 or 19."),
    ("18", "The answer is 18 if x>0 and 19 otherwise."),
    ("18", "The answer is one of 18, 19, 20."),
    ("18", "The answer is a multiple of 18."),
    ("18", "The answer is anything but 18."),
    ("18", "The answer is twice 18."),
    ("18", "The answer could be 17, or it could be 18."),
    ("18", "18 is not the answer."),
    ("A", "The answer is (A) or (B)."),
    ("A", "The answer is never A."),
    ("6", "1 2 3 4 5 6"),
    ("6", "My answer is one of 1 2 3 4 5 6"),
    ("6", "Answer: 6\nAnswer: 7"),
    ("18", r"\boxed{17} \boxed{18} \boxed{19}"),
    ("18", r"\boxed{17, 18, 19}"),
    ("5", r"\boxed{3} and \boxed{5}"),
    ("6", r"The solutions are \[ \boxed{2} \quad \text{and} \quad \boxed{6}. \]"),
    ("18", "```python\nprint(18)\n```"),
    ("18", "[THINK]The answer is 18.[/THINK] I do not know."),
]


# What a completion may do to its grader; all of it is wrong.
HOSTILE = [
    r"\boxed{9^9^9^9}",
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{9**9**9**9}",
    r"\boxed{100000000!}",
    r"\boxed{((9!)!)!}",
    r"\boxed{" + r"\frac{1}{1+" * 60 + "1" + "}" * 61,
    r"\boxed{" + r"\sqrt{" * 200 + "2" + "}" * 201,
    r"\boxed{" + "(" * 400 + ")" * 400 + "}",
    "[" * 1_000_000,
    r"\[" * 500_000,
    "{" * 1_000_000 + "}" * 1_000_000,
    r"\boxed{" * 100_000,
    "$" * 100_000,
    "9" * 100_000,
    "1 " * 100_000 + ".",
    "the answer is " * 50_000,
    r"\boxed{1\0 8" + "\0}",
    "\ud800\udfff \\boxed{\ud800}",
    r"\boxed{1" + r"\pm 1" * 100 + "}",
    r"\boxed{\sum_{k=1}^{10^{9}} \frac{1}{k^2}}",
]


def solution(answer: str) -> str:
    """A worked solution with numbers on the way."""
    return f"She has 48/2 = <<48/2=24>>24 clips.\nThat makes 48+24 = <<48+24=72>>72 clips.\n{answer}"


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    reward = MathReward(num_workers=1)
    yield reward
    reward.close()


def scores(reward: MathReward, gold: str, completions: list[str]) -> list[float | None]:
    return reward(["?"] * len(completions), completions, [gold] * len(completions))


@pytest.mark.parametrize(("gold", "prediction"), SAME)
def test_the_same_answer(gold: str, prediction: str) -> None:
    assert equal(gold, prediction)


@pytest.mark.parametrize(("gold", "prediction"), DIFFERENT)
def test_another_answer(gold: str, prediction: str) -> None:
    assert not equal(gold, prediction)


@pytest.mark.parametrize(("gold", "prediction"), NOT_WORKED_OUT)
def test_what_is_still_to_be_computed_is_no_answer(gold: str, prediction: str) -> None:
    assert not equal(gold, prediction)
    assert equal(prediction, gold)  # the same value: it is the typing that is not paid
    assert equal(prediction, prediction)


@pytest.mark.parametrize("gold", sorted({gold for gold, _ in SAME}))
def test_an_answer_equals_itself_typed_otherwise(gold: str) -> None:
    typed = [f"${gold}$", f"  {gold} ", rf"\({gold}\)", gold.replace(r"\frac", r"\dfrac"), gold + "."]
    assert [equal(gold, each) for each in typed] == [True] * 5


@pytest.mark.parametrize(("gold", "completion"), RIGHT)
def test_a_right_completion(gold: str, completion: str) -> None:
    assert grade((completion, gold, "flexible")) == 1.0


@pytest.mark.parametrize(("gold", "completion"), WRONG)
def test_a_wrong_completion(gold: str, completion: str) -> None:
    assert grade((completion, gold, "flexible")) == 0.0


@pytest.mark.parametrize(
    ("extraction", "paid"), [("boxed", [0, 0, 0, 0, 1]), ("strict", [1, 1, 0, 0, 1]), ("flexible", [1, 1, 1, 1, 1])]
)
def test_which_marks_count(extraction: Extraction, paid: list[float]) -> None:
    completions = ["The answer is 18.", "#### 18", "18", "So she makes 18 dollars.", r"\boxed{18}"]
    assert [grade((completion, "18", extraction)) for completion in completions] == paid


def test_an_extraction_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="extraction='lax'; expected one of boxed, strict, flexible"):
        MathReward(extraction="lax")  # type: ignore[arg-type]


@pytest.mark.parametrize("mark", ["#### {}", "A: {}", r"\boxed{{{}}}", "The answer is {}."])
def test_a_worked_solution_is_a_task_s_answer(reward: MathReward, mark: str) -> None:
    gold = solution(mark.format("1,072"))
    completions = ["1072", gold, r"\boxed{1072}", r"\boxed{72}", solution("#### 72"), solution("")]
    assert scores(reward, gold, completions) == [1, 1, 1, 0, 0, 0]


def test_a_changed_final_number_is_wrong_whatever_stands_before_it(reward: MathReward) -> None:
    draw = random.Random(0)
    marks = ("#### {}", "A: {}", r"\boxed{{{}}}", "The answer is {}.", "So it is {}.", "Answer: {} clips")
    wrong = [solution(draw.choice(marks).format(draw.choice([*range(72), *range(73, 999)]))) for _ in range(200)]
    assert scores(reward, "72", wrong) == [0] * 200
    assert scores(reward, "72", [solution(mark.format(72)) for mark in marks]) == [1] * len(marks)


def test_hostile_completions_cost_no_more_than_the_limit_and_harm_no_other() -> None:
    limit, share_of_a_busy_machine = 0.5, 4.0
    hostile = MathReward(timeout_seconds=limit, num_workers=1)
    assert scores(hostile, "18", ["18"]) == [1.0]
    (worker,) = hostile._pool._workers
    timeouts = 0
    for completion in HOSTILE:
        began = time.monotonic()
        assert scores(hostile, "18", [completion]) == [0.0], completion[:40]
        assert time.monotonic() - began < limit + share_of_a_busy_machine, completion[:40]
        timeouts += hostile.outcomes.timeouts
        assert hostile.outcomes.errors == 0, completion[:40]
    assert timeouts >= 3  # the powers, the fractions, the brackets
    assert hostile._pool._workers == [worker]  # no time-out costs a start
    completions = [r"\boxed{18}", HOSTILE[1], r"\boxed{9}", r"\boxed{18}"]
    assert scores(hostile, "18", completions) == [1, 0, 0, 1]
    assert hostile.outcomes == Outcomes(items=4, timeouts=1)
    hostile.close()


def test_the_first_error_is_logged_with_its_task(caplog: pytest.LogCaptureFixture) -> None:
    reward = MathReward(num_workers=1, max_characters=2**21)  # more than the pool sends
    completions = [r"\boxed{18}", "x" * 2**21, "x" * 2**21]
    with caplog.at_level(logging.WARNING):
        got = reward(["?"] * 3, completions, ["18"] * 3, task_id=["first", "second", "third"])
    reward.close()
    assert got == [1, 0, 0]
    assert reward.outcomes == Outcomes(items=3, errors=2)
    assert "task 'second'" in caplog.text
    assert "third" not in caplog.text


def test_only_the_end_of_a_completion_is_read() -> None:
    reward = MathReward(num_workers=1, max_characters=100)
    assert scores(reward, "18", [r"\boxed{18}" + " " * 100, " " * 100_000 + r"\boxed{18}"]) == [0, 1]
    reward.close()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no final answer"),
        ("$ $", "has no final answer"),
        ("First she sells.\nThen she buys.", "has no final answer"),
        (r"So it is \boxed{}", "has no final answer"),
        (r"\frac{1}{2", "has braces that do not close"),
        (r"\frac{1}{}", "has a fraction, a root or an exponent without content"),
        (r"\frac{1}", "has a fraction, a root or an exponent without content"),
        (r"2^{}", "has a fraction, a root or an exponent without content"),
        ("####", "has no final answer"),
        ("9 ####", "has no final answer"),
        ("word " * 300, "is 1499 characters long"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_its_task(reward: MathReward, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"answer of task 'broken' {fault}"):
        reward(["?"] * 2, ["18", "18"], ["18", text], task_id=["whole", "broken"])
    assert re.match(f"the answer of task 'broken' {fault}", reward.fault(Task("broken", "9*2?", text)) or "")
    assert reward.fault(Task("whole", "9*2?", "18")) is None


@pytest.mark.parametrize("text", ["72", r"\frac{3}{4}", "Monday", r"\text{(B)}", "x=5", "(1, 2]", "5 cm"])
def test_a_plain_answer_is_itself(text: str) -> None:
    assert gold_answer(text, "any") == text


@given(st.from_regex(PLAIN_NUMBER, fullmatch=True))
def test_a_plain_number_is_itself_by_the_long_way_too(text: str) -> None:
    assert stated_answer(text) == text
    assert tidy(text)
    assert balanced(text)
    assert not UNFINISHED.search(text)
    assert gold_answer(text, "any") == text


def test_a_copy_grades_with_processes_of_its_own(reward: MathReward) -> None:
    twin = copy.deepcopy(reward)
    reward.close()
    assert scores(twin, "18", ["18", "19"]) == [1, 0]
    twin.close()
    assert scores(reward, "18", ["18", "19"]) == [1, 0]


def test_the_scorer_takes_it(reward: MathReward) -> None:
    rewards = Scorer([reward])([Task("one", "9*2?", "18"), Task("two", "9/2?", "4.5")], ["18", "9", r"\frac92", "18"])
    assert rewards.tolist() == [1, 0, 1, 0]


def test_it_is_configured_by_class_path() -> None:
    parser = ArgumentParser()
    parser.add_argument("--reward_funcs", type=list[RewardFunction])
    options = {"timeout_seconds": 3.0, "num_workers": 2, "extraction": "strict"}
    config = parser.parse_object(
        {"reward_funcs": [{"class_path": "bots_lightning.rewards.maths.MathReward", "init_args": options}]}
    )
    (function,) = parser.instantiate_classes(config).reward_funcs
    assert isinstance(function, MathReward)
    assert function.extraction == "strict"


def test_a_missing_parser_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bots_lightning.rewards.maths.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"bots-lightning\[maths\]"):
        MathReward()
